"""The outbox is cleared in the background: no client waits for it, and what is not cleared is only published once more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from api import outbox_cleaner
from api.background import Background
from api.outbox_cleaner import OutboxCleaner
from contracts.errors import StoreUnavailable
from tests.api.conftest import ApiUnderTest

pytestmark = pytest.mark.anyio


class Store:
    """Notes what is confirmed, once it is let go."""

    def __init__(self) -> None:
        self.confirmed: list[str] = []
        self.open = asyncio.Event()
        self.away = False

    async def confirm_many(self, job_ids: Sequence[str]) -> None:
        self.confirmed.append("".join(job_ids))
        await self.open.wait()
        if self.away:
            raise StoreUnavailable("away")


async def test_a_client_is_answered_before_its_job_has_left_the_outbox(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, confirm = Store(), api.stores.jobs.confirm_many

    async def slow(job_ids: Sequence[str]) -> None:
        await store.confirm_many(job_ids)
        await confirm(job_ids)

    monkeypatch.setattr(api.stores.jobs, "confirm_many", slow)
    job = await asyncio.wait_for(api.submit(), 5)
    assert job["status"] == "queued"
    store.open.set()
    async with asyncio.timeout(5):
        while store.confirmed != [job["id"]]:
            await asyncio.sleep(0)


async def test_what_comes_together_goes_together_and_the_end_does_not_linger(anyio_backend: str) -> None:
    store, background = Store(), Background()
    clearer = OutboxCleaner(store, background)  # type: ignore[arg-type]
    for name in "abc":
        clearer.add(name)
        await asyncio.sleep(0)
    assert store.confirmed == []
    store.open.set()
    clearer.end()
    await asyncio.wait_for(background.drain(), 5)
    assert store.confirmed == ["abc"]


async def test_a_store_that_is_away_ends_nothing(anyio_backend: str) -> None:
    store, background = Store(), Background()
    clearer = OutboxCleaner(store, background)  # type: ignore[arg-type]
    store.open.set()
    store.away = True
    clearer.end()
    clearer.add("a")
    await background.drain()
    store.away = False
    clearer.add("b")
    await background.drain()
    assert store.confirmed == ["a", "b"]


async def test_what_waits_is_bounded(anyio_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_cleaner, "MAX_WAITING", 2)
    store, background = Store(), Background()
    clearer = OutboxCleaner(store, background)  # type: ignore[arg-type]
    for name in "abc":
        clearer.add(name)
    store.open.set()
    await background.drain()
    assert store.confirmed == ["ab"]

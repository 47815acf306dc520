"""Decisions on held images are carried out although processes end or are behind in between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.api.conftest import ApiUnderTest, Opener
from tests.api.held import decide, drawn, image_of, listed, moderator

pytestmark = pytest.mark.anyio

KEY = "a key that signs"


@pytest.fixture
async def desk(opened: Opener) -> ApiUnderTest:
    return await opened(moderation_log_key=KEY)


@pytest.mark.parametrize("step", ["append", "remember", "put", "apply", "settle"])
async def test_a_decision_is_carried_out_although_its_process_ends_in_between(
    desk: ApiUnderTest, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that decides dies at one of the steps. Another one goes on."""
    job = await desk.submit()
    await drawn(desk)
    headers = await moderator(desk)
    (review,) = await listed(desk, headers)
    stores = desk.stores
    owner = {"append": stores.moderation_log, "put": stores.blobs}.get(step, stores.reviews)

    async def dead(*_: Any, **__: Any) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(owner, step, dead)
        with pytest.raises(asyncio.CancelledError):
            await decide(desk, review["name"], "release", headers)
    carrying = desk.http._transport.app.state.services.carrying  # type: ignore[attr-defined]
    await carrying.tick()
    image = await image_of(desk, job["id"])
    assert image["moderation"]["verdict"] == "released"
    assert (await desk.http.get(image["url"])).status_code == 200
    assert await stores.reviews.due(10) == []
    log = (await desk.http.get("/v1/admin/moderation/log", headers=headers)).json()["data"]
    assert [entry["what"]["action"] for entry in log] == ["release"], "once"


@pytest.mark.parametrize("step", ["append", "remember", "put", "apply"])
async def test_a_process_that_is_behind_shows_nothing_that_was_undone(
    desk: ApiUnderTest, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release is undone and carried out whole, while the process that releases is at one of its steps."""
    job = await desk.submit()
    await drawn(desk)
    headers = await moderator(desk)
    (review,) = await listed(desk, headers)
    stores = desk.stores
    owner = {"append": stores.moderation_log, "put": stores.blobs}.get(step, stores.reviews)
    real = getattr(owner, step)

    async def overtaken(*arguments: Any, **rest: Any) -> Any:
        monkeypatch.setattr(owner, step, real)
        assert (await decide(desk, review["name"], "undo", headers)).status_code == 200
        return await real(*arguments, **rest)

    monkeypatch.setattr(owner, step, overtaken)
    await decide(desk, review["name"], "release", headers)
    image = await image_of(desk, job["id"])
    assert (image["url"], image["moderation"]["verdict"]) == (None, "in_review")
    assert (await desk.http.get(f"/v1/images/{review['name']}")).status_code == 404
    assert await stores.reviews.past([review["name"]]) == {}
    assert await stores.reviews.due(10) == []


async def test_a_job_that_ends_after_the_decision_on_its_image_hears_of_it_wherever_it_lies(
    desk: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker had asked before the decision, and its record lies in another shard."""
    monkeypatch.setattr("tests.api.held.file_of", lambda message, index: b"\x89PNG\r\n\x1a\n" + bytes(64))
    first = await desk.submit()
    await drawn(desk)
    late = first
    while late["id"][-1] == first["id"][-1]:
        late = await desk.submit(prompt=f"another apple, {late['id']}")
    message = desk.publisher.published[-1]
    headers = await moderator(desk)
    (review,) = await listed(desk, headers)
    await decide(desk, review["name"], "release", headers)
    await drawn(desk, message=message)
    carrying = desk.http._transport.app.state.services.carrying  # type: ignore[attr-defined]
    await carrying.tick()
    assert (await image_of(desk, late["id"]))["moderation"]["verdict"] == "released"
    assert await desk.stores.reviews.due(10) == []


async def test_what_is_held_and_not_decided_is_due_for_nothing(desk: ApiUnderTest) -> None:
    job = await desk.submit()
    await drawn(desk)
    carrying = desk.http._transport.app.state.services.carrying  # type: ignore[attr-defined]
    await carrying.tick()
    assert await desk.stores.reviews.due(10) == []
    assert (await image_of(desk, job["id"]))["url"] is None


async def test_a_review_that_this_version_cannot_read_stays_due(desk: ApiUnderTest) -> None:
    await desk.submit()
    await drawn(desk)
    headers = await moderator(desk)
    (review,) = await listed(desk, headers)
    client = desk.stores.reviews._client  # type: ignore[attr-defined]
    (key,) = [name async for name in client.scan_iter("*:review:*")]
    await client.hset(key, "case", "{}")
    carrying = desk.http._transport.app.state.services.carrying  # type: ignore[attr-defined]
    await carrying.tick()
    assert await desk.stores.reviews.due(10) == [review["name"]]

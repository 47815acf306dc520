"""Which name a signed file has: the first one counts, and is kept as long as images are."""

from __future__ import annotations

import asyncio

import pytest

from tests.store.conftest import World

pytestmark = pytest.mark.anyio


async def test_the_first_name_counts(world: World) -> None:
    names = world.stores.signed_names
    assert await names.get("a") is None
    answers = await asyncio.gather(*(names.put("a", f"{number}.png") for number in range(8)))
    assert len(set(answers)) == 1
    assert await names.get("a") == answers[0]
    assert await names.get("b") is None


async def test_a_name_whose_file_is_gone_is_replaced_once(world: World) -> None:
    names = world.stores.signed_names
    await names.put("a", "old.png")
    assert await names.put("a", "new.png", instead_of="old.png") == "new.png"
    assert await names.put("a", "newer.png", instead_of="old.png") == "new.png"

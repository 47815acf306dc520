"""Clicks on the hits of searches: once a day each, within bounds, for one tenant."""

from __future__ import annotations

from typing import Any

import pytest

from backends.redis_client import connect, disconnect
from store import clicks
from store.clicks import RETENTION_S
from tests.store.conftest import World

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

DAY_S = 86_400.0
NOW = 1_800_000_000.0


async def test_the_same_click_counts_once_a_day(world: World) -> None:
    store = world.stores.clicks
    assert await store.add("acme", "a rocket", "1.png", "k", NOW)
    assert not await store.add("acme", " A  Rocket ", "1.png", "k", NOW + 60)
    assert await store.add("acme", "a rocket", "2.png", "k", NOW)
    assert await store.add("acme", "a rocket", "1.png", "another", NOW)
    assert await store.add("acme", "a rocket", "1.png", "k", NOW + DAY_S)
    assert await store.add("other", "a rocket", "1.png", "k", NOW)
    assert await store.counts("acme", "a rocket") == {"1.png": 3, "2.png": 1}
    assert await store.counts("other", "A ROCKET") == {"1.png": 1}
    assert await store.counts("acme", "a cat") == {}


async def test_clicks_expire(world: World) -> None:
    store = world.stores.clicks
    await store.add("acme", "a rocket", "1.png", "k", NOW)
    client: Any = connect(world.settings.redis_url, 20.0)
    keys = [key async for key in client.scan_iter(f"{clicks.clicks_prefix('acme')}*")]
    assert len(keys) == 3
    for key in keys:
        assert 0 < await client.ttl(key) <= RETENTION_S
    await disconnect(client)


async def test_a_tenant_has_bounds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    store = world.stores.clicks
    monkeypatch.setattr(clicks, "MAX_IMAGES", 2)
    counted = [await store.add("acme", "a rocket", f"{number}.png", "k", NOW) for number in range(3)]
    assert counted == [True, True, False]
    monkeypatch.setattr(clicks, "MAX_QUERIES", 2)
    for number, query in enumerate(("a cat", "a dog")):
        assert await store.add("acme", query, "1.png", "k", NOW + 1 + number)
    assert await store.counts("acme", "a rocket") == {}, "the query that was clicked on longest ago"
    assert await store.counts("acme", "a dog") == {"1.png": 1}
    monkeypatch.setattr(clicks, "MAX_CLICKS", 4)
    assert not await store.add("acme", "a cow", "1.png", "k", NOW)
    assert await store.add("acme", "a cow", "1.png", "k", NOW + DAY_S)

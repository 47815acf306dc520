"""The first level of the result cache, in two processes at once: never beyond what is true."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from backends.redis_client import connect
from cache.cache_key import result_pattern
from cache.local_results import LocalResultCache
from cache.results import RedisResultCache
from cli.services.redis import RedisServer
from contracts.errors import StoreUnavailable
from contracts.jobs import JobResult
from runtime.clock import ManualClock
from tests.store.made import result
from tests.store.test_others import address

pytestmark = pytest.mark.anyio

PATIENCE_S = 30.0
TIMEOUT_S = 0.5


class Counted(RedisResultCache):
    """Counts how often the server was asked, and may be held up in the middle of an answer."""

    asked = 0
    gate: asyncio.Event | None = None

    async def get(self, address: str) -> JobResult | None:
        self.asked += 1
        found = await super().get(address)
        if self.gate is not None:
            await self.gate.wait()
        return found


class Level:
    """A process's first level."""

    def __init__(self, url: str, limit: int = 100) -> None:
        self.client: Redis = connect(url, TIMEOUT_S)
        self.clock = ManualClock()
        self.below = Counted(self.client, 1000.0, TIMEOUT_S)
        self.hot = LocalResultCache(
            self.below, self.client, self.clock, limit=limit, ttl_s=5.0, timeout_s=TIMEOUT_S
        )

    async def remembers(self, where: str) -> bool:
        asked = self.below.asked
        return await self.hot.get(where) is not None and self.below.asked == asked

    async def until_remembered(self, where: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not await self.remembers(where):
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        await self.hot.close()
        await self.client.aclose()


@pytest.fixture
async def levels(anyio_backend: str, redis_server: RedisServer) -> AsyncIterator[tuple[Level, Level]]:
    both = Level(redis_server.url), Level(redis_server.url, limit=3)
    await both[0].client.flushdb()
    yield both
    for level in both:
        await level.close()


async def test_a_hot_result_is_remembered_for_seconds(levels: tuple[Level, Level]) -> None:
    level, _ = levels
    await level.hot.put(address(), result())
    await level.until_remembered(address())
    assert await level.hot.get(address()) == result()
    level.clock.advance(5.1)
    assert not await level.remembers(address())
    assert (await level.hot.stats()).hot_hits >= 2


async def test_what_is_forgotten_or_replaced_anywhere_is_forgotten_everywhere(
    levels: tuple[Level, Level],
) -> None:
    one, two = levels
    other = result("1" * 64 + ".png")
    for forget in (
        lambda: one.hot.purge(result_pattern(model="m")),
        lambda: one.hot.purge(result_pattern(key="a" * 64)),
        lambda: one.hot.delete(address()),
        lambda: one.hot.put(address(), other),
        lambda: RedisResultCache(one.client, 1000.0, TIMEOUT_S).put(address(), other),
    ):
        await one.hot.put(address(), result())
        await one.until_remembered(address())
        await two.until_remembered(address())
        forgotten = two.hot._forgotten
        await forget()
        async with asyncio.timeout(PATIENCE_S):
            while two.hot._forgotten == forgotten:
                await asyncio.sleep(0.01)
        for level in (one, two):
            assert await level.hot.get(address()) in (None, other)


async def test_what_was_read_before_a_purge_is_not_remembered_after_it(levels: tuple[Level, Level]) -> None:
    one, two = levels
    await one.hot.put(address(), result())
    await one.until_remembered(address("a" * 64))
    two.below.gate = asyncio.Event()
    await asyncio.sleep(0)
    late = asyncio.create_task(two.hot.get(address()))
    async with asyncio.timeout(PATIENCE_S):
        while not two.hot._listening:
            await asyncio.sleep(0.01)
    forgotten = two.hot._forgotten
    await one.hot.purge(result_pattern())
    async with asyncio.timeout(PATIENCE_S):
        while two.hot._forgotten == forgotten:
            await asyncio.sleep(0.01)
    two.below.gate.set()
    assert await late == result(), "it was there when it was asked for"
    assert await two.hot.get(address()) is None


async def test_the_level_is_bounded_and_forgets_the_coldest(levels: tuple[Level, Level]) -> None:
    one, two = levels
    places = [address(digit * 64) for digit in "abcd"]
    for place in places:
        await one.hot.put(place, result())
    await two.until_remembered(places[0])
    for place in places[1:3]:
        await two.until_remembered(place)
    assert await two.remembers(places[0])
    await two.hot.get(places[3])
    assert await two.remembers(places[0])
    assert not await two.remembers(places[1])


async def test_who_cannot_hear_does_not_remember(anyio_backend: str, tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    level = Level(server.url)
    try:
        await level.hot.put(address(), result())
        await level.until_remembered(address())
        server.send(signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            while level.hot._listening:
                await asyncio.sleep(0.01)
        with pytest.raises(StoreUnavailable):
            await level.hot.get(address())
        server.start()
        await level.hot.put(address(), result())
        await level.until_remembered(address())
    finally:
        await level.close()
        server.stop()


async def test_what_was_said_while_the_connection_was_away_is_not_missed(levels: tuple[Level, Level]) -> None:
    """The client library subscribes again by itself, and says nothing of it."""
    one, two = levels
    await one.hot.put(address(), result())
    await two.until_remembered(address())
    await two.client.client_kill_filter(_type="pubsub")
    assert await one.hot.delete(address())
    async with asyncio.timeout(PATIENCE_S):
        while await two.hot.get(address()) is not None:
            await asyncio.sleep(0.01)
    await one.hot.put(address(), result())
    await two.until_remembered(address())


async def test_whatever_ends_the_listening_it_listens_again(
    levels: tuple[Level, Level], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        monkeypatch.undo()
        raise RuntimeError("an answer that nobody foresaw")

    monkeypatch.setattr("cache.local_results.listen", broken)
    level, _ = levels
    await level.hot.put(address(), result())
    await level.until_remembered(address())

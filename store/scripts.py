"""Runs the scripts of `lua/` by their hash, each on one shard. Before the first run, the store must
have the layout of the settings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterable
from functools import cache
from importlib.resources import files
from typing import Any, Final, TypeVar

from redis.asyncio import Redis

from backends.redis_client import is_full, store_errors
from contracts.errors import StoreFull, StoreUnavailable
from store.layout import LayoutGuard

T = TypeVar("T")

SHARED: Final = ("prelude", "record", "turn", "moves")
"""The parts that are put before each script, in this order."""
_COMPACT: Final = json.JSONEncoder(separators=(",", ":"))


class Scripts:
    """The scripts of one store, which errors call `what`. `skew_s` shifts its clock by seconds; for
    tests only."""

    def __init__(
        self, client: Redis, guard: LayoutGuard, retention_s: float, timeout_s: float, what: str
    ) -> None:
        self._client = client
        self._guard = guard
        self._retention_s = retention_s
        self._timeout_s = timeout_s
        self._what = what
        self._registered: dict[str, Any] = {}
        self.skew_s = 0.0

    async def run(self, name: str, prefix: str, *arguments: str | float) -> Any:
        """The answer of the script `name` on the keys below `prefix`. Raises `StoreUnavailable`,
        and `StoreFull` where Redis is at its `maxmemory`."""
        if not self._guard.passed:
            await self._guard.require()
        script = self._registered.get(name)
        if script is None:
            script = self._registered[name] = self._client.register_script(lua_source(name))
        async with store_errors(self._what, self._timeout_s):
            return await script(keys=[prefix], args=[self.skew_s, self._retention_s, *arguments])

    def fault(self, words: str) -> StoreUnavailable:
        """The error for one item of a script call, while the script went on with the others.
        `words` is the script's error."""
        if is_full(Exception(words)):
            return StoreFull(f"The {self._what} is full: Redis is at its maxmemory.")
        return StoreUnavailable(f"The {self._what} could not do it: {words}.")


@cache
def lua_source(name: str) -> str:
    """The source of a script behind the shared parts. Redis gets it once after a restart, and its
    hash from then on."""
    folder = files("store") / "lua"
    return "\n".join((folder / f"{part}.lua").read_text() for part in (*SHARED, name))


async def each_apart(calls: Iterable[Awaitable[T]]) -> list[T | Exception]:
    """The outcome of each call, in their order, once all have ended. An exception is the outcome of
    its own call, and does not stop the others. Raises what is no `Exception`, such as a
    cancellation."""
    outcomes = list[T | Exception]()
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
            raise outcome
        outcomes.append(outcome)
    return outcomes


def as_json(document: Any) -> str:
    """`document` as compact JSON, for a script."""
    return _COMPACT.encode(document)

"""Running the scripts of `lua/`: by their hash, on one shard each, once the store is known to have the layout of the settings."""

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
"""What is put before each script, in this order."""
_COMPACT: Final = json.JSONEncoder(separators=(",", ":"))


class Scripts:
    """The scripts of one store, which `what` names in errors. `skew_s` shifts its clock; for tests only."""

    def __init__(
        self, client: Redis, guard: LayoutGuard, retention_s: float, timeout_s: float, what: str
    ) -> None:
        self._client = client
        self._guard = guard
        self._retention_s = retention_s
        self._timeout_s = timeout_s
        self._what = what
        self._known: dict[str, Any] = {}
        self.skew_s = 0.0

    async def run(self, name: str, prefix: str, *arguments: str | float) -> Any:
        """What the script answers on the keys below `prefix`. Raises `StoreUnavailable`."""
        if not self._guard.passed:
            await self._guard.require()
        script = self._known.get(name)
        if script is None:
            script = self._known[name] = self._client.register_script(lua_source(name))
        async with store_errors(self._what, self._timeout_s):
            return await script(keys=[prefix], args=[self.skew_s, self._retention_s, *arguments])

    def fault(self, words: str) -> StoreUnavailable:
        """The error of one of several in a script, which goes on with the others."""
        if is_full(Exception(words)):
            return StoreFull(f"The {self._what} is full: Redis is at its maxmemory.")
        return StoreUnavailable(f"The {self._what} could not do it: {words}.")


@cache
def lua_source(name: str) -> str:
    """A transition's script behind what all share. Scripts travel by their hash, and in full once after a restart."""
    folder = files("store") / "lua"
    return "\n".join((folder / f"{each}.lua").read_text() for each in (*SHARED, name))


async def each_apart(calls: Iterable[Awaitable[T]]) -> list[T | Exception]:
    """What became of each call, in their order; all of them have ended then. An exception of one is its own outcome, and spoils none of
    the others."""
    outcomes = list[T | Exception]()
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
            raise outcome
        outcomes.append(outcome)
    return outcomes


def as_json(document: Any) -> str:
    """A document for a script."""
    return _COMPACT.encode(document)

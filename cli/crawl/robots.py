"""robots.txt (RFC 9309): what each host lets a crawler read. Rules are read once for each host."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import httpx
from protego import Protego

MAX_ROBOTS_BYTES: Final = 500 * 1024
"""What of a file is read: section 2.5."""


class Rules:
    """What a host allows. `fault`: why it allows nothing; empty where its rules are known."""

    def __init__(self, rules: Protego | None, fault: str = "") -> None:
        self._rules = rules
        self.fault = fault

    @classmethod
    def of(cls, data: bytes) -> Rules:
        """The rules of a file; an empty one allows everything."""
        return cls(Protego.parse(data[:MAX_ROBOTS_BYTES].decode("utf-8", "replace")))

    @classmethod
    def closed(cls, fault: str) -> Rules:
        """Nothing is allowed: the host has a fault, and its rules are not known (section 2.3.1.4)."""
        return cls(None, fault)

    def allow(self, url: str, agent: str) -> bool:
        """Whether the agent may fetch the address."""
        return self._rules is not None and bool(self._rules.can_fetch(url, agent))

    def delay_s(self, agent: str) -> float:
        """The seconds that the host wants between two requests; 0: it does not say."""
        return 0.0 if self._rules is None else float(self._rules.crawl_delay(agent) or 0.0)


class Robots:
    """The rules of all hosts. `read` fetches them from the address of a robots.txt; what it raises is raised for
    every file of the host."""

    def __init__(self, read: Callable[[httpx.URL], Awaitable[Rules]]) -> None:
        self._read = read
        self._known: dict[httpx.URL, asyncio.Task[Rules]] = {}

    async def rules(self, url: httpx.URL) -> Rules:
        """The rules for the address."""
        place = url.copy_with(raw_path=b"/robots.txt", fragment=None)
        if place not in self._known:
            self._known[place] = asyncio.ensure_future(self._read(place))
        return await asyncio.shield(self._known[place])

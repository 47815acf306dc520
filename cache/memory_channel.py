"""A channel by name in the memory of one process, as `cache.listen.messages` is one on Redis."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator


class Channel:
    """Messages to a name reach whoever listens to it, and nobody else; nothing is kept."""

    def __init__(self) -> None:
        self._listeners: defaultdict[str, set[asyncio.Queue[str]]] = defaultdict(set)

    def say(self, name: str, message: str) -> None:
        for queue in self._listeners.get(name, ()):
            queue.put_nowait(message)

    async def messages(self, name: str) -> AsyncGenerator[str]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._listeners[name].add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners[name].discard(queue)

"""Both clients, called in the same way."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from client import AsyncClient, Client


class Sync:
    """The async client, called as the sync one is, so that one suite holds both to the same."""

    def __init__(self, *arguments: Any, **rest: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(*arguments, **rest)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **rest: Any) -> Any:
            found = method(*arguments, **rest)
            if inspect.isasyncgen(found):
                return iter(self._loop.run_until_complete(_all(found)))
            return self._loop.run_until_complete(found)

        return call

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())
        # As asyncio.run does: a stream that was left at its end is closed with the loop.
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


async def _all(events: Any) -> list[Any]:
    return [event async for event in events]


Opener = Callable[..., Any]


@pytest.fixture(params=[Client, Sync], ids=["sync", "async"])
def opened(request: pytest.FixtureRequest) -> Iterator[Opener]:
    made = []

    def start(url: str, **rest: Any) -> Any:
        made.append(request.param(url, **rest))
        return made[-1]

    yield start
    for each in made:
        each.close()

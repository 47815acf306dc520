"""Steps that continue after their client has left."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect

from contracts.errors import DarkroomError
from telemetry.logs import get_logger

T = TypeVar("T")

log = get_logger(__name__)


class Background:
    """Tasks that a client cannot interrupt by leaving. `drain` before the process ends."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start `work` as a task, and hold a reference to it."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    async def whole(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`.

        It runs to its end even if the caller is cancelled. Raises what `work` raises.
        """
        return await asyncio.shield(self.start(work))

    async def drain(self) -> None:
        """Wait until all tasks are done."""
        while self._running:
            await asyncio.wait(self._running)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        # Expected errors go to the client, if it is still there. Others are always logged.
        if error is not None and not isinstance(error, DarkroomError | ClientDisconnect):
            log.error("background_step_crashed", error=type(error).__name__)

"""Jobs that end together are told to the store together: those of one pass have one call instead of one each. Alone, a job waits for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from contracts.transitions import End, EndAnswer, Finished

EndMany = Callable[[Sequence[End]], Awaitable[Sequence[EndAnswer]]]
"""Ends jobs, each under its own fence and answered for itself, in their order. An error is that job's alone."""


class EndBatcher:
    """Gathers the ends that come while the event loop goes round once, or while another call is under way."""

    def __init__(self, end_many: EndMany) -> None:
        self._end_many = end_many
        self._waiting: list[tuple[End, asyncio.Future[EndAnswer]]] = []
        self._task: asyncio.Task[None] | None = None

    async def end(self, end: End) -> Finished:
        """Raises what the store answers for this one: `StoreUnavailable`, `StoreFull`."""
        answer: asyncio.Future[EndAnswer] = asyncio.get_running_loop().create_future()
        self._waiting.append((end, answer))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._call(), name="endings")
        told = await answer
        if isinstance(told, Exception):
            raise told
        return told

    async def _call(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            answers: Sequence[EndAnswer]
            try:
                answers = await self._end_many([end for end, _ in group])
            except Exception as error:  # noqa: BLE001 - each of them hears of it, and decides
                for _, answer in group:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, answer), told in zip(group, answers, strict=True):
                if not answer.done():
                    answer.set_result(told)

"""Ends jobs in the store in batches.

The jobs of one batch share one call. A single job does not wait for others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from contracts.transitions import End, EndAnswer, Finished

EndMany = Callable[[Sequence[End]], Awaitable[Sequence[EndAnswer]]]
"""Ends jobs, each under its own fence.

Answers in their order; an answer may be an error of that job.
"""


class EndBatcher:
    """Collects the ends of one round of the event loop, or of the time that another call takes."""

    def __init__(self, end_many: EndMany) -> None:
        self._end_many = end_many
        self._waiting: list[tuple[End, asyncio.Future[EndAnswer]]] = []
        self._task: asyncio.Task[None] | None = None

    async def end(self, end: End) -> Finished:
        """End one job. Raises what the store answers for it: `StoreUnavailable` or `StoreFull`."""
        answer: asyncio.Future[EndAnswer] = asyncio.get_running_loop().create_future()
        self._waiting.append((end, answer))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._call(), name="endings")
        finished = await answer
        if isinstance(finished, Exception):
            raise finished
        return finished

    async def _call(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            answers: Sequence[EndAnswer]
            try:
                answers = await self._end_many([end for end, _ in batch])
            except Exception as error:  # noqa: BLE001 - every waiting job raises it
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

"""Group commit: concurrent calls share one call to a service.

Source: DeWitt et al., "Implementation Techniques for Main Memory Database Systems", SIGMOD 1984,
section 5.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Grouped(Generic[T, R]):
    """Passes items to `run` in groups of at most `limit`, in the order of their arrival.

    There is no fixed window. A group holds the items that arrived in one iteration of the event loop, or
    while another group was running. An item that arrives alone runs at once. If the previous group takes
    longer than `patience_s` seconds, the next one starts beside it, up to `at_once` groups.

    `run` returns one outcome per item, in order. An exception among the outcomes is raised by that item's
    `add`. An exception that `run` raises is raised by every `add` of its group. If `run` is cancelled, every
    `add` of its group is cancelled, and with the last worker also every waiting `add`.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]],
        *,
        limit: int,
        at_once: int = 1,
        patience_s: float = 0.0,
    ) -> None:
        self._run = run
        self._limit = limit
        self._at_once = at_once
        self._patience_s = patience_s
        self._started_at = 0.0
        """When the latest group started, on the event loop's clock, in seconds."""
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._active = 0
        self._workers: set[asyncio.Task[None]] = set()

    async def add(self, item: T) -> R:
        """The outcome of `item`, once its group has run. Raises the item's exception.

        The item is dropped if its caller is cancelled before the group starts.
        """
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[R] = loop.create_future()
        self._waiting.append((item, outcome))
        if not self._active or not self._patience_s:
            self._start_worker()
        elif self._timer is None and self._active < self._at_once:
            self._timer = loop.call_at(self._started_at + self._patience_s, self._check_patience, loop)
        return await outcome

    def _start_worker(self) -> None:
        """Start one more worker, if fewer than `at_once` are running."""
        if self._active < self._at_once:
            self._active += 1
            self._started_at = asyncio.get_running_loop().time()
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    def _check_patience(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start another group if the latest one has exceeded the patience."""
        self._timer = None
        if not self._waiting:
            return
        due_at = self._started_at + self._patience_s
        if loop.time() < due_at:
            self._timer = loop.call_at(due_at, self._check_patience, loop)
        else:
            self._start_worker()

    async def drain(self) -> None:
        """Wait until no group is running."""
        while self._workers:
            await asyncio.wait(self._workers)

    async def _work(self) -> None:
        try:
            while group := self._next_group():
                await self._run_group(group)
        except BaseException:
            if self._active == 1:
                # No worker is left to run the waiting items.
                _abandon(self._waiting)
                self._waiting.clear()
            raise
        finally:
            # No await since the queue was seen empty: the next item can start a worker.
            self._active -= 1

    async def _run_group(self, group: list[tuple[T, asyncio.Future[R]]]) -> None:
        outcomes: Sequence[R | Exception]
        self._started_at = asyncio.get_running_loop().time()
        try:
            outcomes = await self._run([item for item, _ in group])
            if len(outcomes) != len(group):
                raise ValueError(f"{len(outcomes)} outcomes for {len(group)} items")
        except Exception as error:  # noqa: BLE001 - every caller of the group must receive it
            outcomes = [error] * len(group)
        except BaseException:
            _abandon(group)
            raise
        for (_, outcome), result in zip(group, outcomes, strict=True):
            if outcome.done():
                continue  # its caller has left
            if isinstance(result, Exception):
                outcome.set_exception(result)
            else:
                outcome.set_result(result)

    def _next_group(self) -> list[tuple[T, asyncio.Future[R]]]:
        group: list[tuple[T, asyncio.Future[R]]] = []
        while self._waiting and len(group) < self._limit:
            entry = self._waiting.popleft()
            if not entry[1].done():
                group.append(entry)
        return group


def _abandon(items: Iterable[tuple[T, asyncio.Future[R]]]) -> None:
    """Cancel the outcomes of items that will not run."""
    for _, outcome in items:
        outcome.cancel()

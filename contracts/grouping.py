"""Group commit: calls that meet share one call to a service (DeWitt et al., "Implementation Techniques for Main Memory Database
Systems", SIGMOD 1984, section 5)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Grouped(Generic[T, R]):
    """Hands items to `run` in groups of at most `limit`, in the order in which they came. No window is waited for: a group is what has
    come in the same turn of the event loop, or while another was on its way. Alone, an item waits for nobody. Where the group before it
    takes longer than `patience_s`, the next goes beside it, until `at_once` are on their way.

    `run` answers each item's outcome in order; an exception among them is raised by that item's `add`. One that `run` itself raises
    is raised by all of its group. Where `run` is cancelled, so is every `add` of its group, and what waits for nobody else.
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
        self._begun_at = 0.0
        """When the latest group began, on the loop's clock."""
        self._watch: asyncio.TimerHandle | None = None
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._under_way = 0
        self._workers: set[asyncio.Task[None]] = set()

    async def add(self, item: T) -> R:
        """What became of the item. One whose caller is cancelled before its group is on its way is dropped."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[R] = loop.create_future()
        self._waiting.append((item, outcome))
        if not self._under_way or not self._patience_s:
            self._begin()
        elif self._watch is None and self._under_way < self._at_once:
            self._watch = loop.call_at(self._begun_at + self._patience_s, self._look, loop)
        return await outcome

    def _begin(self) -> None:
        """One more group goes, where there may be one."""
        if self._under_way < self._at_once:
            self._under_way += 1
            self._begun_at = asyncio.get_running_loop().time()
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Whether the latest group has taken too long for those who wait."""
        self._watch = None
        if not self._waiting:
            return
        again_at = self._begun_at + self._patience_s
        if loop.time() < again_at:
            self._watch = loop.call_at(again_at, self._look, loop)
        else:
            self._begin()

    async def drain(self) -> None:
        """Wait until nothing is on its way."""
        while self._workers:
            await asyncio.wait(self._workers)

    async def _work(self) -> None:
        try:
            while group := self._next():
                await self._carry(group)
        except BaseException:
            if self._under_way == 1:
                # Nobody is left who would carry them.
                _abandon(self._waiting)
                self._waiting.clear()
            raise
        finally:
            # In the same turn as the last look: what comes next finds room for a worker.
            self._under_way -= 1

    async def _carry(self, group: list[tuple[T, asyncio.Future[R]]]) -> None:
        outcomes: Sequence[R | Exception]
        self._begun_at = asyncio.get_running_loop().time()
        try:
            outcomes = await self._run([item for item, _ in group])
            if len(outcomes) != len(group):
                raise ValueError(f"{len(outcomes)} outcomes for {len(group)} items")
        except Exception as error:  # noqa: BLE001 - whatever it is, each of them must hear of it
            outcomes = [error] * len(group)
        except BaseException:
            _abandon(group)
            raise
        for (_, outcome), become in zip(group, outcomes, strict=True):
            if outcome.done():
                continue  # its caller has left
            if isinstance(become, Exception):
                outcome.set_exception(become)
            else:
                outcome.set_result(become)

    def _next(self) -> list[tuple[T, asyncio.Future[R]]]:
        group: list[tuple[T, asyncio.Future[R]]] = []
        while self._waiting and len(group) < self._limit:
            one = self._waiting.popleft()
            if not one[1].done():
                group.append(one)
        return group


def _abandon(items: Iterable[tuple[T, asyncio.Future[R]]]) -> None:
    """What will become of them is never known."""
    for _, outcome in items:
        outcome.cancel()

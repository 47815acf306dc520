"""Jobs that end together are told to the store together: those of one pass have one call instead of one each. Alone, a job waits for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from cache.stores import Stores
from contracts.errors import StoreFull, StoreUnavailable, UnavailableError
from contracts.jobs import JobFailure, JobResult, Lease
from contracts.ports import Finished
from telemetry import metrics


@dataclass(frozen=True, slots=True)
class End:
    """The end of a job in hand: its result, its failure, or, with None, `expired`. A result is put into the result cache at `address`,
    where there is one."""

    lease: Lease
    outcome: JobResult | JobFailure | None
    address: str | None = None


EndAnswer = Finished | UnavailableError

EndMany = Callable[[Sequence[End]], Awaitable[Sequence[EndAnswer]]]
"""Ends jobs, each under its own fence and answered for itself, in their order. An error is that job's alone."""


class Endings:
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


class OneByOne:
    """`EndMany` of a store that ends one job at a time."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    async def __call__(self, ends: Sequence[End]) -> Sequence[EndAnswer]:
        return await asyncio.gather(*map(self._end, ends))

    async def _end(self, end: End) -> EndAnswer:
        jobs = self._stores.jobs
        try:
            match end.outcome:
                case JobResult():
                    finished = await jobs.succeed(end.lease, end.outcome)
                case JobFailure():
                    finished = await jobs.fail(end.lease, end.outcome)
                case None:
                    finished = await jobs.expire(end.lease)
        except UnavailableError as error:
            return error
        if finished.applied and isinstance(end.outcome, JobResult) and end.address is not None:
            await self._remember(end.address, end.outcome)
        return finished

    async def _remember(self, address: str, result: JobResult) -> None:
        try:
            await self._stores.results.put(address, result)
        except StoreFull:
            metrics.REPAIRED.labels("store_full").inc()
        except StoreUnavailable:
            # A result that is not cached is computed again when it is asked for.
            metrics.REPAIRED.labels("cache_fill").inc()

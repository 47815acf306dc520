"""Jobs that end together have one call, and each its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from contracts.errors import StoreFull, StoreUnavailable
from contracts.jobs import JobFailure, Lease
from contracts.transitions import End, EndAnswer, Finished
from worker.end_batcher import EndBatcher

pytestmark = pytest.mark.anyio

FAILURE = JobFailure(code="engine_fault", message="it broke")


def end(number: int) -> End:
    return End(
        Lease(job_id=f"job-{number}", attempt=1, deadline=2.0, started_at=1.0, claimed_at=1.0), FAILURE
    )


class Calls:
    """A store that answers when it is let, and `StoreFull` for the jobs of `full`."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.gate = asyncio.Event()
        self.full: set[str] = set()

    async def __call__(self, ends: Sequence[End]) -> Sequence[EndAnswer]:
        ids = [each.lease.job_id for each in ends]
        self.groups.append(ids)
        await self.gate.wait()
        return [StoreFull("no room") if each in self.full else Finished(True) for each in ids]


async def test_one_alone_waits_for_nobody(anyio_backend: str) -> None:
    calls = Calls()
    ending = asyncio.create_task(EndBatcher(calls).end(end(1)))
    for _ in range(2):  # its own turn, and that of the call
        await asyncio.sleep(0)
    assert calls.groups == [["job-1"]]
    calls.gate.set()
    assert (await ending).applied


async def test_those_that_meet_have_one_call(anyio_backend: str) -> None:
    calls = Calls()
    endings = EndBatcher(calls)
    first = [asyncio.create_task(endings.end(end(number))) for number in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = [asyncio.create_task(endings.end(end(number))) for number in range(3, 7)]
    await asyncio.sleep(0)
    assert calls.groups == [["job-0", "job-1", "job-2"]], "the others wait for its answer"
    calls.gate.set()
    async with asyncio.timeout(5):
        assert all(each.applied for each in await asyncio.gather(*first, *second))
    assert calls.groups[1:] == [["job-3", "job-4", "job-5", "job-6"]]


async def test_what_goes_wrong_for_one_is_raised_for_that_one(anyio_backend: str) -> None:
    calls = Calls()
    calls.full = {"job-1"}
    calls.gate.set()
    endings = EndBatcher(calls)
    async with asyncio.timeout(5):
        told = await asyncio.gather(*(endings.end(end(n)) for n in range(3)), return_exceptions=True)
    assert [type(each) for each in told] == [Finished, StoreFull, Finished]
    assert len(calls.groups) == 1


async def test_a_call_that_fails_as_a_whole_is_heard_by_all_and_the_next_goes_on(anyio_backend: str) -> None:
    calls, left = Calls(), [1]
    calls.gate.set()

    async def away_at_first(ends: Sequence[End]) -> Sequence[EndAnswer]:
        if left[0]:
            left[0] -= 1
            raise StoreUnavailable("away")
        return await calls(ends)

    endings = EndBatcher(away_at_first)
    async with asyncio.timeout(5):
        told = await asyncio.gather(*(endings.end(end(n)) for n in range(2)), return_exceptions=True)
        assert [type(each) for each in told] == [StoreUnavailable] * 2
        assert (await endings.end(end(2))).applied


async def test_one_that_is_canceled_takes_nobody_along(anyio_backend: str) -> None:
    calls = Calls()
    endings = EndBatcher(calls)
    gone, stays = (asyncio.create_task(endings.end(end(number))) for number in range(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gone.cancel()
    calls.gate.set()
    async with asyncio.timeout(5):
        assert (await stays).applied

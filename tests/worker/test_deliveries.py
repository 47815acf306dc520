"""Deliveries in hand: acked when their jobs end here, and looked after when they do not."""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError, Future

import pytest

from tests.worker.receipts import receipt_with
from worker.deliveries import RECENTLY_ENDED, Deliveries, Verdict
from worker.receipt import Receipt

pytestmark = pytest.mark.anyio

SOON_S = 5.0
"""What does not happen within it does not happen."""
JOB = "a job"


async def verdict_of(answer: Future[Verdict]) -> Verdict:
    return await asyncio.wait_for(asyncio.wrap_future(answer), SOON_S)


async def nobody(receipt: Receipt, look_s: float) -> Verdict:
    raise AssertionError("It ends here: nobody looks after it.")


async def test_a_delivery_is_acked_when_its_job_ends_here(anyio_backend: str) -> None:
    deliveries, first, second = Deliveries(), Future[Verdict](), Future[Verdict]()
    deliveries.hold(receipt_with(JOB, None), first, SOON_S, nobody)
    deliveries.hold(receipt_with(JOB, None), second, SOON_S, nobody)
    assert list(deliveries.job_ids) == [JOB]
    deliveries.ended(JOB)
    assert await verdict_of(first) is await verdict_of(second) is Verdict.ACK
    assert not deliveries.job_ids
    late = Future[Verdict]()
    deliveries.hold(receipt_with(JOB, None), late, SOON_S, nobody)
    assert late.result(0) is Verdict.ACK, "what comes later is acked at once"


@pytest.mark.parametrize("how", ["verdict", "error", "cancel"])
async def test_a_delivery_whose_job_does_not_end_here_is_looked_after(how: str, anyio_backend: str) -> None:
    looked: list[tuple[str, float]] = []

    async def hold_delivery(receipt: Receipt, look_s: float) -> Verdict:
        looked.append((receipt.job_id, look_s))
        if how == "error":
            raise ValueError
        if how == "cancel":
            raise asyncio.CancelledError
        return Verdict.REQUEUE

    deliveries, answer = Deliveries(), Future[Verdict]()
    deliveries.hold(receipt_with(JOB, None), answer, 0.01, hold_delivery)
    if how == "verdict":
        assert await verdict_of(answer) is Verdict.REQUEUE
    else:
        with pytest.raises(ValueError if how == "error" else (asyncio.CancelledError, CancelledError)):
            await verdict_of(answer)
    assert looked == [(JOB, 0.0)]


async def test_a_job_that_ends_while_its_delivery_is_looked_after_acks_it(anyio_backend: str) -> None:
    looking, go_on = asyncio.Event(), asyncio.Event()

    async def hold_delivery(receipt: Receipt, look_s: float) -> Verdict:
        looking.set()
        await go_on.wait()
        return Verdict.REQUEUE

    deliveries, answer = Deliveries(), Future[Verdict]()
    deliveries.hold(receipt_with(JOB, None), answer, 0.0, hold_delivery)
    async with asyncio.timeout(SOON_S):
        await looking.wait()
    deliveries.ended(JOB)
    assert await verdict_of(answer) is Verdict.ACK
    go_on.set()
    await asyncio.sleep(0)


async def test_the_jobs_that_ended_are_remembered_within_bounds() -> None:
    deliveries = Deliveries()
    for number in range(RECENTLY_ENDED + 1):
        deliveries.ended(str(number))
    assert not deliveries.has_ended("0")
    assert all(deliveries.has_ended(str(number)) for number in range(1, RECENTLY_ENDED + 1))

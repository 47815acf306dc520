"""What became of several futures: in their order, canceled ones among them, and none left alone."""

from __future__ import annotations

import asyncio

import pytest

from worker.outcomes import outcomes_of

pytestmark = pytest.mark.anyio


def futures(count: int) -> list[asyncio.Future[int]]:
    return [asyncio.get_running_loop().create_future() for _ in range(count)]


async def test_each_outcome_is_told_in_order_whatever_it_is(anyio_backend: str) -> None:
    good, canceled, broken, late = all_of_them = futures(4)
    waiting = asyncio.create_task(outcomes_of(all_of_them))
    await asyncio.sleep(0)
    broken.set_exception(ValueError("broken"))
    canceled.cancel()
    good.set_result(1)
    await asyncio.sleep(0)
    assert not waiting.done()
    late.set_result(4)
    first, second, third, fourth = await waiting
    assert (first, fourth) == (1, 4)
    assert isinstance(second, asyncio.CancelledError)
    assert isinstance(third, ValueError)


async def test_who_is_canceled_cancels_all_that_it_waits_for(anyio_backend: str) -> None:
    several = futures(3)
    several[0].set_result(1)
    waiting = asyncio.create_task(outcomes_of(several))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert [each.cancelled() for each in several] == [False, True, True]

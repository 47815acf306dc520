from __future__ import annotations

import asyncio
from contextlib import suppress

from runtime.tasks import end


def test_a_task_that_swallows_cancellations_ends_all_the_same() -> None:
    async def hard_of_hearing() -> str:
        for _ in range(2):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
        await asyncio.sleep(60)
        return "slept"

    async def scenario() -> None:
        task = asyncio.create_task(hard_of_hearing())
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            (outcome,) = await end(task)
        assert isinstance(outcome, asyncio.CancelledError)
        assert task.cancelling() == 3

    asyncio.run(scenario())


def test_what_each_task_came_to_is_told_in_order_and_none_is_cut_off_in_its_last_words() -> None:
    said = []

    async def answers() -> int:
        return 7

    async def fails() -> None:
        raise ValueError("no")

    async def cleans_up() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            said.append("clean")

    async def scenario() -> None:
        tasks = [asyncio.create_task(each()) for each in (answers, fails, cleans_up)]
        await asyncio.sleep(0.01)
        value, error, canceled = await end(*tasks)
        assert value == 7
        assert isinstance(error, ValueError)
        assert isinstance(canceled, asyncio.CancelledError)
        assert said == ["clean"]
        assert await end() == []

    asyncio.run(scenario())

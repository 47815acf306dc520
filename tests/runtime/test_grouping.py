"""Calls that meet share one call, each with its own outcome; one that is alone waits for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from runtime.grouping import Grouped

pytestmark = pytest.mark.anyio


class Service:
    """Doubles numbers. It answers a group once it is let go."""

    def __init__(self, limit: int = 100, at_once: int = 1, patience_s: float = 0.0) -> None:
        self.groups: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.grouped: Grouped[int, int] = Grouped(
            self.run, limit=limit, at_once=at_once, patience_s=patience_s
        )

    async def run(self, numbers: Sequence[int]) -> Sequence[int | Exception]:
        self.groups.append(list(numbers))
        await self.open.wait()
        if 0 in numbers:
            raise ZeroDivisionError
        return [ValueError(number) if number < 0 else 2 * number for number in numbers]

    def add(self, number: int) -> asyncio.Task[int]:
        return asyncio.create_task(self.grouped.add(number))


async def until(condition: object) -> None:
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0)


async def test_alone_it_goes_at_once_and_so_does_the_next(anyio_backend: str) -> None:
    service = Service()
    async with asyncio.timeout(5):
        for number in range(1, 100):
            # Right behind the answer to the one before: none may be left lying.
            assert await service.grouped.add(number) == 2 * number
    assert service.groups == [[number] for number in range(1, 100)]


async def test_what_comes_while_a_group_is_on_its_way_makes_the_next(anyio_backend: str) -> None:
    service = Service()
    service.open.clear()
    first = service.add(1)
    await until(lambda: service.groups)
    later = [service.add(number) for number in (2, 3, 4)]
    await until(lambda: len(service.grouped._waiting) == 3)
    assert service.groups == [[1]]
    service.open.set()
    assert await asyncio.gather(first, *later) == [2, 4, 6, 8]
    assert service.groups == [[1], [2, 3, 4]]


async def test_groups_are_bounded_and_so_many_are_on_their_way(anyio_backend: str) -> None:
    service = Service(limit=2, at_once=2)
    service.open.clear()
    tasks = [service.add(number) for number in range(1, 6)]
    await until(lambda: len(service.groups) == 2)
    assert service.groups == [[1, 2], [3, 4]]
    service.open.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10]
    assert service.groups == [[1, 2], [3, 4], [5]]


async def test_each_has_its_own_outcome(anyio_backend: str) -> None:
    service = Service()
    good, bad, other = service.add(1), service.add(-1), service.add(2)
    outcomes = await asyncio.gather(good, bad, other, return_exceptions=True)
    assert [outcomes[0], outcomes[2]] == [2, 4]
    assert isinstance(outcomes[1], ValueError)


async def test_a_group_that_fails_fails_for_all_of_it_and_for_no_other(anyio_backend: str) -> None:
    service = Service()
    outcomes = await asyncio.gather(service.add(0), service.add(1), return_exceptions=True)
    assert all(isinstance(outcome, ZeroDivisionError) for outcome in outcomes)
    assert await service.grouped.add(3) == 6


async def test_one_that_leaves_before_its_group_goes_is_dropped(anyio_backend: str) -> None:
    service = Service()
    service.open.clear()
    first = service.add(1)
    await until(lambda: service.groups)
    leaver, stayer = service.add(2), service.add(3)
    await until(lambda: len(service.grouped._waiting) == 2)
    leaver.cancel()
    first.cancel()  # too late for this one: it is on its way, and nobody hears of it
    service.open.set()
    assert await stayer == 6
    assert service.groups == [[1], [3]]
    await service.grouped.drain()


async def test_a_run_that_is_cancelled_lets_everybody_go(anyio_backend: str) -> None:
    service = Service()
    service.open.clear()
    first = service.add(1)
    await until(lambda: service.groups)
    later = service.add(2)
    await until(lambda: len(service.grouped._waiting) == 1)
    for worker in set(service.grouped._workers):
        worker.cancel()
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(first, later, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
    service.open.set()
    async with asyncio.timeout(5):
        assert await service.grouped.add(3) == 6


async def test_another_worker_carries_what_waits_for_one_that_was_cancelled(anyio_backend: str) -> None:
    service = Service(at_once=2)
    service.open.clear()
    tasks = [service.add(1)]
    await until(lambda: len(service.groups) == 1)
    (worker,) = service.grouped._workers
    tasks.append(service.add(2))
    await until(lambda: len(service.groups) == 2)
    tasks.append(service.add(3))
    await until(lambda: len(service.grouped._waiting) == 1)
    worker.cancel()
    await until(lambda: tasks[0].done())
    service.open.set()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*tasks[1:]) == [4, 6]
    assert tasks[0].cancelled()


async def test_too_few_outcomes_are_a_fault_that_all_of_the_group_hear_of(anyio_backend: str) -> None:
    async def run(numbers: Sequence[int]) -> Sequence[int]:
        return numbers[1:]

    grouped: Grouped[int, int] = Grouped(run, limit=10)
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*map(grouped.add, range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ValueError] * 3


async def test_what_comes_while_a_group_is_on_its_way_goes_beside_it_once_that_takes_long(
    anyio_backend: str,
) -> None:
    service = Service(at_once=2, patience_s=0.1)
    service.open.clear()
    begun = asyncio.get_running_loop().time()
    tasks = [service.add(1)]
    await until(lambda: service.groups)
    tasks += [service.add(number) for number in (2, 3)]
    await until(lambda: len(service.groups) == 2)
    assert asyncio.get_running_loop().time() - begun >= 0.1
    # No third goes beside these two, however long they take.
    tasks.append(service.add(4))
    await until(lambda: len(service.grouped._waiting) == 1)
    service.open.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8]
    assert service.groups == [[1], [2, 3], [4]]


async def test_what_comes_while_groups_are_quick_waits_for_the_next(anyio_backend: str) -> None:
    service = Service(at_once=2, patience_s=60.0)
    service.open.clear()
    first = service.add(1)
    await until(lambda: service.groups)
    later = [service.add(number) for number in (2, 3)]
    await until(lambda: len(service.grouped._waiting) == 2)
    assert service.groups == [[1]]
    service.open.set()
    assert await asyncio.gather(first, *later) == [2, 4, 6]
    assert service.groups == [[1], [2, 3]]

"""Faults in the life of a job: of its image, its engine, the store and the cache."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contracts.errors import StoreUnavailable
from contracts.jobs import JobStatus
from tests.worker.conftest import Room, address
from tests.worker.receipts import receipt_of
from worker.deliveries import Verdict

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_a_job_whose_engine_is_gone_for_good_is_given_back_at_once(room: Room) -> None:
    message = await room.submit("slow=1 a")
    delivery = asyncio.create_task(room.fetcher.hold_delivery(receipt_of(message)))
    async with asyncio.timeout(10):
        while not room.batcher.backlog_steps():
            await asyncio.sleep(0.01)
        for image in list(room.batcher._active.images):
            image.result.cancel()
        while (await room.job(message)).attempt < 2:
            await asyncio.sleep(0.01)  # long before its lease of ten seconds would lapse
        assert await delivery is Verdict.ACK


async def test_one_bad_image_fails_alone(room: Room) -> None:
    hold = await room.submit("slow=0.3 hold")
    prompts = ["a", "fault:raise", "b", "fault:nan"]
    messages = [await room.submit(prompt) for prompt in prompts]
    assert set(await room.run(hold, *messages)) == {Verdict.ACK}
    assert [await room.failure(message) for message in messages] == ["", "engine_fault", "", "invalid_output"]
    assert await room.stores.results.get(address(messages[1])) is None, "a failure is never cached"


async def test_a_batch_that_does_not_fit_is_split(room: Room) -> None:
    hold = await room.submit("slow=0.3 hold")
    messages = [await room.submit("fault:oom>=3", seed=i) for i in range(4)]
    await room.run(hold, *messages)
    assert [await room.failure(message) for message in messages] == [""] * 4
    alone = await room.submit("fault:oom>=1")
    await room.run(alone)
    assert await room.failure(alone) == "out_of_memory"


@pytest.mark.parametrize("fault", ["fault:crash", "fault:hang"])
async def test_a_job_that_kills_its_engine_fails_and_the_others_live(room: Room, fault: str) -> None:
    hold = await room.submit("slow=0.3 hold")
    messages = [await room.submit(prompt) for prompt in ("a", fault, "b")]
    before = room.host.pid
    assert set(await room.run(hold, *messages)) == {Verdict.ACK}
    assert [await room.failure(message) for message in messages] == ["", "engine_crashed", ""]
    failed = await room.job(messages[1])
    assert failed.failure is not None
    assert failed.failure.retryable
    assert room.host.pid != before


async def test_a_store_that_is_away_for_a_while_costs_nothing(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    for store, name in (
        (room.stores.jobs, "take"),
        (room.stores.jobs, "succeed"),
        (room.stores.blobs, "put"),
    ):
        real, failures = getattr(store, name), iter([True, True, False])

        async def flaky(*given: Any, real: Any = real, failures: Any = failures, **more: Any) -> Any:
            if next(failures, False):
                raise StoreUnavailable("away")
            return await real(*given, **more)

        monkeypatch.setattr(store, name, flaky)
    message = await room.submit("a")
    assert await room.run(message) == [Verdict.ACK]
    assert (await room.job(message)).status is JobStatus.SUCCEEDED


async def test_a_cache_that_is_away_does_not_fail_the_job(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(room.stores.results, "put", away)
    message = await room.submit("a")
    assert await room.run(message) == [Verdict.ACK]
    assert (await room.job(message)).status is JobStatus.SUCCEEDED

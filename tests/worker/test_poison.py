"""Whatever our own code raises in a worker is a poison message like any other: it spends an attempt, and its neighbours live.

A real batcher, a real engine process (the fake one), real stores. Each part raises for the job whose seed says so, and
for no other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest

from contracts.engine import Batch, ImageTask
from contracts.jobs import JobMessage, JobStatus
from contracts.transitions import Claim, Taken, TakenJob
from scheduler import policy
from scheduler.cost import CostModel
from tests.worker.conftest import Room
from tests.worker.receipts import receipt_of
from worker import active_images as hand_module
from worker import device
from worker.deliveries import Verdict
from worker.encode import Output
from worker.engine.host import EngineHost
from worker.engine.messages import Answer
from worker.images import Flight, Image, Outcome
from worker.job_fetcher import JobFetcher
from worker.progress import ProgressReporter

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

POISON = 13
WIDE = 96
"""The poisoned job's own width, for those parts that see no seed: nobody else has that batch key."""


class Broken(Exception):
    """Of our own code."""


def in_policy(room: Room, patch: pytest.MonkeyPatch) -> None:
    real = policy.decide

    def decide(now: float, queue: Sequence[policy.Sample], device: policy.Device) -> Any:
        if any(sample.key.width == WIDE for sample in queue):
            raise Broken
        return real(now, queue, device)

    patch.setattr(hand_module, "decide", decide)


def in_cost(room: Room, patch: pytest.MonkeyPatch) -> None:
    real = CostModel.ran

    def ran(model: CostModel, key: Any, *given: Any) -> None:
        if key.width == WIDE:
            raise Broken
        real(model, key, *given)

    patch.setattr(CostModel, "ran", ran)


def in_digest(room: Room, patch: pytest.MonkeyPatch) -> None:
    real = device.Device._apply_result

    def digest(mine: Any, flight: Flight, *given: Any) -> Any:
        if any(image.task.seed == POISON for image in flight.images):
            raise Broken
        return real(mine, flight, *given)

    patch.setattr(device.Device, "_apply_result", digest)


def in_host(room: Room, patch: pytest.MonkeyPatch) -> None:
    """What is said to the engine cannot be said, or its answer cannot be read."""
    send, receive = EngineHost.send, EngineHost.receive
    poisoned, sent = set[int](), deque[Batch]()

    def sends(host: EngineHost, batch: Batch) -> None:
        poisoned.update(n for n, task in batch.joining.items() if task.seed == POISON)
        send(host, batch)
        sent.append(batch)

    def receives(host: EngineHost) -> Answer:
        answer, batch = receive(host), sent.popleft()
        if poisoned & set(batch.samples):
            raise Broken
        return answer

    patch.setattr(EngineHost, "send", sends)
    patch.setattr(EngineHost, "receive", receives)


def in_tell(room: Room, patch: pytest.MonkeyPatch) -> None:
    real = Image.notify

    def tell(image: Image, outcome: Outcome | None) -> None:
        if image.task.seed == POISON:
            raise Broken
        real(image, outcome)

    patch.setattr(Image, "notify", tell)


def in_progress(room: Room, patch: pytest.MonkeyPatch) -> None:
    real = ProgressReporter.report

    def tell(telling: ProgressReporter, progress: Any) -> None:
        if telling._lease.job_id == room_poisoned[0]:
            raise Broken
        real(telling, progress)

    patch.setattr(ProgressReporter, "report", tell)


def in_task(room: Room, patch: pytest.MonkeyPatch) -> None:
    def task(*given: Any) -> ImageTask:
        made = ImageTask(*given)
        if made.seed == POISON:
            raise Broken
        return made

    patch.setattr("worker.job.ImageTask", task)


def in_encoder(room: Room, patch: pytest.MonkeyPatch) -> None:
    real = Output.of

    def of(request: Any, *given: Any) -> Any:
        if request.seed == POISON:
            request = request.model_copy(update={"output_format": "gif"})
        return real(request, *given)

    patch.setattr(Output, "of", of)


def in_start(room: Room, patch: pytest.MonkeyPatch) -> None:
    real = JobFetcher._start

    def start(fetcher: JobFetcher, job: TakenJob) -> None:
        if job.message.request.seed == POISON:
            raise Broken
        real(fetcher, job)

    patch.setattr(JobFetcher, "_start", start)


PARTS = (in_policy, in_cost, in_digest, in_host, in_tell, in_progress, in_task, in_encoder, in_start)
room_poisoned: list[str] = []


async def ended(room: Room, messages: Sequence[JobMessage]) -> list[Verdict]:
    async with asyncio.timeout(60):
        return list(
            await asyncio.gather(*(room.fetcher.hold_delivery(receipt_of(message)) for message in messages))
        )


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__[3:])
async def test_a_job_that_breaks_the_worker_fails_alone(
    room: Room, monkeypatch: pytest.MonkeyPatch, part: Any
) -> None:
    wide = WIDE if part in (in_policy, in_cost) else 64
    part(room, monkeypatch)  # first: the taker looks for jobs also where no message tells of one
    bad = await room.submit("bad", num_inference_steps=3, seed=POISON, width=wide)
    room_poisoned[:] = [bad.job_id]
    good = [await room.submit(f"good {n}", num_inference_steps=3, seed=100 + n) for n in range(5)]
    assert await ended(room, [bad, *good]) == [Verdict.ACK] * 6
    failed = await room.job(bad)
    assert failed.status is JobStatus.FAILED
    assert failed.failure is not None
    assert (failed.failure.code, failed.attempt) == ("worker_fault", 3)
    assert "raised" in failed.failure.message
    for message in good:
        job = await room.job(message)
        assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1), "its neighbours pay nothing"
    monkeypatch.undo()
    again = await room.submit("once more", seed=7)
    assert await ended(room, [again]) == [Verdict.ACK], "and the worker works on"
    assert room.batcher.backlog_steps() == 0


async def test_taking_that_breaks_at_times_stops_nobody(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, left = room.stores.jobs, [2]
    take = jobs.take

    async def breaks(model: str, worker_id: str, limit: int) -> Taken:
        if left[0]:
            left[0] -= 1
            raise Broken
        return await take(model, worker_id, limit)

    monkeypatch.setattr(jobs, "take", breaks)
    message = await room.submit("a")
    assert await ended(room, [message]) == [Verdict.ACK]
    assert (await room.job(message)).status is JobStatus.SUCCEEDED
    assert left == [0]


async def test_a_delivery_that_cannot_be_looked_after_is_a_dead_letter_in_the_end(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, good = room.stores.jobs, await room.submit("good", seed=2)
    bad = good.model_copy(update={"job_id": good.job_id[:-1] + ("0" if good.job_id[-1] != "0" else "1")})
    looks, claim = list[str](), jobs.claim

    async def breaks(message: JobMessage, worker_id: str, **rest: Any) -> Claim:
        if message.job_id == bad.job_id:
            looks.append(worker_id)
            raise Broken
        return await claim(message, worker_id, **rest)

    monkeypatch.setattr(jobs, "claim", breaks)
    async with asyncio.timeout(60):
        verdicts = await asyncio.gather(
            *(room.fetcher.hold_delivery(receipt_of(message)) for message in (bad, good)),
            return_exceptions=True,
        )
    # Celery hands to the dead letters what raises.
    assert isinstance(verdicts[0], Broken)
    assert len(looks) == 3
    assert verdicts[1] is Verdict.ACK


async def test_a_policy_that_breaks_once_costs_nobody_anything(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = policy.decide, [1]

    def decide(*given: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise Broken
        return real(*given)

    monkeypatch.setattr(hand_module, "decide", decide)
    message = await room.submit("a")
    assert await ended(room, [message]) == [Verdict.ACK]
    job = await room.job(message)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)


async def test_an_engine_that_takes_more_steps_than_was_thought_is_let_do_so(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count of steps is the engine's to say: here the batcher believes in one step less."""
    seen, real = list[int](), policy.decide

    def decide(now: float, queue: Sequence[policy.Sample], device: policy.Device) -> Any:
        seen.extend(sample.steps_left for sample in queue)
        return real(now, queue, device)

    monkeypatch.setattr(hand_module, "decide", decide)

    def one(image: Image) -> None:
        image.steps = 1

    monkeypatch.setattr(Image, "__post_init__", one)
    message = await room.submit("a", num_inference_steps=4)
    assert await ended(room, [message]) == [Verdict.ACK]
    assert (await room.job(message)).status is JobStatus.SUCCEEDED
    assert min(seen) == 1
    assert sorted(set(seen)) == [1, 2, 3]

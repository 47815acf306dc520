"""Jobs of different numbers of steps through the policy and the engine's process: by step, or by whole requests."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.report import ROOT
from contracts.engine import Batch, BatchKey, ImageTask, Pixels, Progress
from scheduler.cost import CostModel
from scheduler.policy import Device, Dispatch, Sample, decide
from worker.engine.host import EngineHost
from worker.engine.messages import Done
from worker.engine.quality import psnr_db

LIMIT: Final = 8
IN_HAND: Final = 2 * LIMIT
MIX: Final = {1: 0.5, 4: 0.3, 25: 0.2}
KEY: Final = BatchKey("emoji-base", 64, 64, guided=True)
GUIDANCE: Final = 1.5
PROMPTS: Final = ("a red apple on a blue background", "a rocket on a yellow background", "a snowman", "a cat")
MODEL: Final = str(ROOT / "models" / "emoji-base")


@dataclass(slots=True)
class Job:
    task: ImageTask
    at: float = 0.0
    taken: int = 0
    ended: float = 0.0
    picture: Pixels | None = None


def jobs_of(count: int, seed: int) -> list[Job]:
    rng, jobs = random.Random(seed), []
    for _ in range(count):
        steps = rng.choices(list(MIX), list(MIX.values()))[0]
        jobs.append(Job(ImageTask(rng.choice(PROMPTS), "", rng.getrandbits(40), steps, GUIDANCE)))
    return jobs


@dataclass(slots=True)
class Full:
    """What was done while there was always a next job: seconds, and how many images each pass had."""

    seconds: float = 0.0
    passes: list[int] = field(default_factory=list)


def serve(host: EngineHost, jobs: Sequence[Job], *, by_step: bool, cost: CostModel) -> Full:
    """Runs the jobs, `IN_HAND` at a time."""
    begun = time.perf_counter()
    full, hand, upcoming = Full(), dict[int, Job](), 0
    while hand or upcoming < len(jobs):
        now = time.perf_counter() - begun
        while upcoming < len(jobs) and len(hand) < IN_HAND:
            hand[upcoming] = jobs[upcoming]
            hand[upcoming].at = now
            upcoming += 1
        numbers = list(hand)
        chosen = _choose(now, [hand[n] for n in numbers], by_step=by_step, cost=cost)
        batch = [numbers[i] for i in chosen]
        repeats = 1 if by_step else hand[batch[0]].task.num_inference_steps
        for _ in range(repeats):
            _advance(host, hand, batch, begun, cost)
            if upcoming < len(jobs):
                full.passes.append(len(batch))
                full.seconds = time.perf_counter() - begun
    return full


def _choose(now: float, jobs: Sequence[Job], *, by_step: bool, cost: CostModel) -> tuple[int, ...]:
    def group(job: Job) -> int:
        return 0 if by_step else job.task.num_inference_steps

    samples = [
        Sample(KEY, job.at, math.inf, job.task.num_inference_steps - job.taken, job.taken, group(job))
        for job in jobs
    ]
    decision = decide(now, samples, Device(lambda _: LIMIT, lambda k, n: cost.seconds(k, n) or 0.0))
    if not isinstance(decision, Dispatch):
        raise RuntimeError("The policy would wait, with jobs at hand.")
    return decision.batch


def _advance(
    host: EngineHost, hand: dict[int, Job], batch: Sequence[int], begun: float, cost: CostModel
) -> None:
    joining = {n: hand[n].task for n in batch if not hand[n].taken}
    done = host.run(Batch(KEY, tuple(batch), joining))
    if not isinstance(done, Done):
        raise RuntimeError(done.reason)
    cost.ran(KEY, len(batch), done.seconds)
    now = time.perf_counter() - begun
    for number, outcome in zip(batch, done.samples, strict=True):
        job = hand[number]
        job.taken += 1
        if isinstance(outcome, Progress):
            continue
        if not isinstance(outcome, Pixels):
            raise RuntimeError(outcome.message)
        job.ended, job.picture = now, outcome
        del hand[number]


def alone(host: EngineHost, task: ImageTask) -> Pixels:
    job = Job(task)
    serve(host, [job], by_step=True, cost=CostModel())
    if job.picture is None:
        raise RuntimeError("The job has no picture.")
    return job.picture


def least_psnr_db(host: EngineHost, jobs: Sequence[Job]) -> float:
    """The least PSNR of the jobs' pictures against the same jobs alone, in decibels; infinite if all are equal."""
    pairs = [(job.picture, alone(host, job.task)) for job in jobs if job.picture is not None]
    return min((psnr_db(*pair) for pair in pairs if pair[0] != pair[1]), default=math.inf)

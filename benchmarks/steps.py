"""Jobs of 1, 4 and 25 steps on one device: step-level batching against batching whole requests.

    python -m benchmarks.steps --json out.json --html out.html

Both arms run the same engine (emoji-base, guidance on, as its profile has it) in a process of its own, through the same policy
(`scheduler.policy`), on the same jobs in the same order. The load is closed: two batches of jobs are in hand, as many as a worker
holds of a queue without end, and each that ends makes place for the next. The step-level arm is the batcher's way: every pass takes
whoever may share it. In the request-level arm, jobs share a batch only if they have equal numbers of steps, and it runs to its end.
Throughput counts image-steps until the last job has come in, so that the emptying of the hand at the end counts in neither
arm. Rounds alternate between the arms; an A/A round of the step-level arm gives the noise. Pictures of the step-level arm are
compared with the same jobs run alone.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from benchmarks import report
from contracts.engine import Batch, BatchKey, ImageTask, Pixels, Progress
from contracts.settings import WorkerSettings
from scheduler.cost import CostModel
from scheduler.policy import Device, Dispatch, Sample, decide
from worker.engine.host import EngineHost
from worker.engine.messages import Done

LIMIT: Final = 8
IN_HAND: Final = 2 * LIMIT
MIX: Final = {1: 0.5, 4: 0.3, 25: 0.2}
KEY: Final = BatchKey("emoji-base", 64, 64, guided=True)
GUIDANCE: Final = 1.5
PROMPTS: Final = ("a red apple on a blue background", "a rocket on a yellow background", "a snowman", "a cat")
MODEL: Final = str(report.ROOT / "models" / "emoji-base")


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


def psnr(one: Pixels, two: Pixels) -> float:
    """In decibels; infinite for equal pictures."""
    a, b = (np.frombuffer(each.rgb, np.uint8).astype(np.float64) for each in (one, two))
    error = float(np.mean((a - b) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def alone(host: EngineHost, task: ImageTask) -> Pixels:
    job = Job(task)
    serve(host, [job], by_step=True, cost=CostModel())
    if job.picture is None:
        raise RuntimeError("The job has no picture.")
    return job.picture


def p99(jobs: Sequence[Job], steps: Callable[[int], bool]) -> float:
    waits = [job.ended - job.at for job in jobs if steps(job.task.num_inference_steps)]
    return statistics.quantiles(waits, n=100)[98]


def measure(rounds: int, count: int) -> tuple[dict[str, list[float]], float]:
    """Samples of each arm, round by round; and the least PSNR against running alone."""
    host = EngineHost(WorkerSettings(model=MODEL, max_batch=LIMIT))
    host.start()
    samples: dict[str, list[float]] = {}
    cost, least = CostModel(), math.inf
    try:
        serve(host, jobs_of(IN_HAND, seed=0), by_step=True, cost=cost)  # warms up, and teaches the cost model
        for number in range(rounds):
            arms = [("request", False), ("step", True), ("step_again", True)]
            for arm, by_step in arms if number % 2 == 0 else arms[::-1]:
                jobs = jobs_of(count, seed=number + 1)
                full = serve(host, jobs, by_step=by_step, cost=cost)
                for name, value in (
                    ("rate", sum(full.passes) / full.seconds),
                    ("short_p99", p99(jobs, lambda steps: steps == 1)),
                    ("all_p99", p99(jobs, lambda _: True)),
                    ("mean_batch", statistics.mean(full.passes)),
                ):
                    samples.setdefault(f"{arm}_{name}", []).append(value)
                if arm == "step":
                    for job in jobs[:: max(1, count // 6)]:
                        if job.picture is not None:
                            least = min(least, psnr(job.picture, alone(host, job.task)))
    finally:
        host.kill()
    return samples, least


def figures_of(samples: dict[str, list[float]], least_db: float) -> dict[str, float]:
    def ratio(above: str, below: str) -> float:
        return statistics.median(a / b for a, b in zip(samples[above], samples[below], strict=True))

    return {
        "step_over_request_throughput": ratio("step_rate", "request_rate"),
        "step_over_request_short_p99": ratio("step_short_p99", "request_short_p99"),
        "step_over_request_all_p99": ratio("step_all_p99", "request_all_p99"),
        "step_mean_batch": statistics.median(samples["step_mean_batch"]),
        "request_mean_batch": statistics.median(samples["request_mean_batch"]),
        "control_throughput": ratio("step_again_rate", "step_rate"),
        "control_short_p99": ratio("step_again_short_p99", "step_short_p99"),
        "psnr_against_alone_db": min(least_db, 999.0),
    }


def plot_of(samples: dict[str, list[float]]) -> Any:
    """Throughput and the short jobs' p99 of each arm, one point a round."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(1, 2, figsize=(9, 3.5))
    arms = ("request", "step", "step_again")
    for axes, name, label in zip(
        grid, ("rate", "short_p99"), ("image-steps per second", "p99 of one-step jobs, s"), strict=True
    ):
        for place, arm in enumerate(arms):
            values = samples[f"{arm}_{name}"]
            axes.plot([place] * len(values), values, "o", alpha=0.6)
        axes.set(xticks=range(len(arms)), ylabel=label, ylim=(0, None))
        axes.set_xticklabels(arms)
        axes.grid(alpha=0.3, axis="y")
    return figure


def main() -> None:
    args = report.parser(__doc__).parse_args()
    rounds, count = (1, 40) if args.quick else (6, 150)
    samples, least = measure(rounds, count)
    config = {
        "rounds": rounds,
        "jobs": count,
        "in_hand": IN_HAND,
        "mix": MIX,
        "limit": LIMIT,
        "model": "emoji-base",
    }
    report.publish(args, "steps", config, figures_of(samples, least), dict(samples), plot_of(samples))


if __name__ == "__main__":
    main()

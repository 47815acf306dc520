"""Jobs of 1, 4 and 25 steps on one device: step-level batching against batching whole requests.

    python -m benchmarks.steps --json out.json --html out.html

Both arms run the same engine (emoji-base, guidance on, as its profile has it) in a process of its own, through the same policy
(`scheduler.policy`), on the same arrivals, which come in real time at twice the rate that the request-level arm can carry, so that
a queue forms. The step-level arm is the batcher's way: every pass takes whoever may share it. In the request-level arm, jobs share a
batch only if they have equal numbers of steps, and it runs to its end. Rounds alternate between the arms; an A/A round
of the step-level arm gives the noise. Pictures of the step-level arm are compared with the same jobs run alone.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchmarks import report
from contracts.engine import BatchKey, ImageTask, Pass, Pixels, Progress
from contracts.settings import WorkerSettings
from scheduler.cost import CostModel
from scheduler.policy import Device, Dispatch, Sample, decide
from worker.engine.host import EngineHost
from worker.engine.wire import Done

LIMIT: Final = 8
MIX: Final = {1: 0.5, 4: 0.3, 25: 0.2}
KEY: Final = BatchKey("emoji-base", 64, 64, guided=True)
GUIDANCE: Final = 1.5
PROMPTS: Final = ("a red apple on a blue background", "a rocket on a yellow background", "a snowman", "a cat")
MODEL: Final = str(report.ROOT / "models" / "emoji-base")


@dataclass(slots=True)
class Job:
    at: float
    task: ImageTask
    taken: int = 0
    ended: float = 0.0
    picture: Pixels | None = None


def jobs_of(count: int, rate: float, seed: int) -> list[Job]:
    """Poisson arrivals of `rate` a second."""
    rng, now, jobs = random.Random(seed), 0.0, []
    for _ in range(count):
        now += rng.expovariate(rate)
        steps = rng.choices(list(MIX), list(MIX.values()))[0]
        task = ImageTask(rng.choice(PROMPTS), "", rng.getrandbits(40), steps, GUIDANCE)
        jobs.append(Job(now, task))
    return jobs


def serve(
    host: EngineHost, jobs: Sequence[Job], *, by_step: bool, cost: CostModel, passes: list[int] | None = None
) -> float:
    """Runs the jobs as they arrive; answers the seconds that it took."""
    begun = time.perf_counter()
    hand: dict[int, Job] = {}
    upcoming = 0
    while hand or upcoming < len(jobs):
        now = time.perf_counter() - begun
        while upcoming < len(jobs) and jobs[upcoming].at <= now:
            hand[upcoming] = jobs[upcoming]
            upcoming += 1
        if not hand:
            time.sleep(max(0.0, jobs[upcoming].at - now))
            continue
        numbers = list(hand)
        chosen = _choose(now, [hand[n] for n in numbers], by_step=by_step, cost=cost)
        batch = [numbers[i] for i in chosen]
        repeats = 1 if by_step else hand[batch[0]].task.num_inference_steps
        for _ in range(repeats):
            _advance(host, hand, batch, begun, cost)
            if passes is not None:
                passes.append(len(batch))
    return time.perf_counter() - begun


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
    done = host.run(Pass(KEY, tuple(batch), joining))
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
    job = Job(0.0, task)
    serve(host, [job], by_step=True, cost=CostModel())
    if job.picture is None:
        raise RuntimeError("The job has no picture.")
    return job.picture


def p99(jobs: Sequence[Job], steps: Callable[[int], bool]) -> float:
    waits = [job.ended - job.at for job in jobs if steps(job.task.num_inference_steps)]
    return statistics.quantiles(waits, n=100)[98]


def measure(rounds: int, count: int) -> tuple[dict[str, list[float]], float, float]:
    """Samples of each arm, round by round; the least PSNR against running alone; and the rate of arrivals."""
    host = EngineHost(WorkerSettings(model=MODEL, max_batch=LIMIT))
    host.start()
    samples: dict[str, list[float]] = {}
    cost = CostModel()
    try:
        # Everything at once tells what the request-level arm can carry.
        probe = jobs_of(max(24, count // 3), 1e6, seed=0)
        rate = 2 * len(probe) / serve(host, probe, by_step=False, cost=cost)
        least = math.inf
        for number in range(rounds):
            for arm, by_step in (("request", False), ("step", True), ("step_again", True)):
                jobs, passes = jobs_of(count, rate, seed=number + 1), list[int]()
                seconds = serve(host, jobs, by_step=by_step, cost=cost, passes=passes)
                for name, value in (
                    ("rate", count / seconds),
                    ("short_p99", p99(jobs, lambda steps: steps == 1)),
                    ("all_p99", p99(jobs, lambda _: True)),
                    ("mean_batch", statistics.mean(passes)),
                ):
                    samples.setdefault(f"{arm}_{name}", []).append(value)
                if arm == "step":
                    for job in jobs[:: max(1, count // 6)]:
                        if job.picture is not None:
                            least = min(least, psnr(job.picture, alone(host, job.task)))
    finally:
        host.kill()
    return samples, least, rate


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
        grid, ("rate", "short_p99"), ("jobs per second", "p99 of one-step jobs, s"), strict=True
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
    rounds, count = (1, 40) if args.quick else (5, 120)
    samples, least, rate = measure(rounds, count)
    config = {
        "rounds": rounds,
        "jobs": count,
        "rate": rate,
        "mix": MIX,
        "limit": LIMIT,
        "model": "emoji-base",
    }
    report.publish(args, "steps", config, figures_of(samples, least), dict(samples), plot_of(samples))


if __name__ == "__main__":
    main()

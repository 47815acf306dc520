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
import statistics
from typing import Any

from benchmarks import report
from benchmarks.engines.by_step import IN_HAND, LIMIT, MIX, MODEL, Job, jobs_of, least_psnr_db, serve
from benchmarks.lib import plots
from benchmarks.lib.orders import orders
from benchmarks.lib.percentiles import percentile
from benchmarks.lib.ratios import ratios
from contracts.settings import WorkerSettings
from scheduler.cost import CostModel
from worker.engine.host import EngineHost

ARMS = {"request": False, "step": True, "step_again": True}
"""Whether each batches by step."""


def wait_s(job: Job) -> float:
    return job.ended - job.at


def measure(rounds: int, count: int) -> tuple[dict[str, list[float]], float]:
    """Samples of each arm, round by round; and the least PSNR against running alone."""
    host = EngineHost(WorkerSettings(model=MODEL, max_batch=LIMIT))
    host.start()
    samples: dict[str, list[float]] = {}
    cost, least = CostModel(), math.inf
    try:
        serve(host, jobs_of(IN_HAND, seed=0), by_step=True, cost=cost)  # warms up, and teaches the cost model
        for number, order in enumerate(orders(list(ARMS), rounds)):
            for arm in order:
                jobs = jobs_of(count, seed=number + 1)
                full = serve(host, jobs, by_step=ARMS[arm], cost=cost)
                short = [job for job in jobs if job.task.num_inference_steps == 1]
                for name, value in (
                    ("rate", sum(full.passes) / full.seconds),
                    ("short_p99", percentile(map(wait_s, short), 99)),
                    ("all_p99", percentile(map(wait_s, jobs), 99)),
                    ("mean_batch", statistics.mean(full.passes)),
                ):
                    samples.setdefault(f"{arm}_{name}", []).append(value)
                if arm == "step":
                    least = min(least, least_psnr_db(host, jobs[:: max(1, count // 6)]))
    finally:
        host.kill()
    return samples, least


def figures_of(samples: dict[str, list[float]], least_db: float) -> dict[str, float]:
    def ratio(above: str, below: str) -> float:
        return statistics.median(ratios(samples[above], samples[below]))

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
    figure, grid = plots.canvas(1, 2, figsize=(9, 3.5))
    labels = {"rate": "image-steps per second", "short_p99": "p99 of one-step jobs, s"}
    for axes, (name, label) in zip(grid, labels.items(), strict=True):
        plots.points(axes, {arm: samples[f"{arm}_{name}"] for arm in ARMS}, label)
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

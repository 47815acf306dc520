"""What a tenant with ten thousand queued jobs costs another tenant, through the running platform.

    python -m benchmarks.fairness --json out.json --html out.html

RabbitMQ, Redis, the API and one worker run for real; the engine is the fake one, whose passes take 60 ms and 15 ms for each
image, because waiting in line is the point and not the picture. A modest tenant asks for one picture at a time, at random
moments, and waits for it: on an idle platform, then while a greedy tenant has its jobs queued, then idle again (A/A).
`added_p99_batches` is the modest tenant's p99 with the backlog less that without, in full batches of eight (180 ms).
`passes_ahead` counts, whatever the machine's noise, the passes that ended between a modest job's arrival and the beginning of its own:
one for the pass that was running, two for a job that came in its last moments.
"""

from __future__ import annotations

import bisect
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any, Final

import httpx

from benchmarks import report
from benchmarks.lib import plots
from benchmarks.lib.asking import fresh
from benchmarks.lib.backlog import ends, fill, waiting
from benchmarks.lib.percentiles import percentile
from benchmarks.lib.platform import FAKE, QUIET, Platform
from contracts.tenancy import new_token

COST: Final = "cost=60+15"
BATCH: Final = 8
BATCH_S: Final = 0.060 + BATCH * 0.015
BETWEEN_S: Final = (0.1, 0.3)


def phase(http: httpx.Client, count: int, moments: random.Random) -> tuple[list[float], list[dict[str, Any]]]:
    """Seconds of one request at a time, at random moments, each until its job has ended; and the jobs."""
    taken, jobs = [], []
    for _ in range(count):
        time.sleep(moments.uniform(*BETWEEN_S))
        begun = time.perf_counter()
        job = http.post("/v1/jobs", json=fresh(COST), headers={"Prefer": "wait=60"}).raise_for_status().json()
        taken.append(time.perf_counter() - begun)
        if job["status"] != "succeeded":
            raise RuntimeError(f"The job is {job['status']}.")
        jobs.append(job)
    return taken, jobs


def passes_ahead(jobs: Sequence[dict[str, Any]], others: Sequence[float]) -> list[float]:
    """For each job, how many full passes of others ended, by the store's stamps, between its arrival and the beginning of its own."""
    counts = []
    for job in jobs:
        # Those that shared its pass end when it does; those of the pass before, a pass earlier.
        begun = job["finished_at"] - BATCH_S / 2
        ended = bisect.bisect(others, begun) - bisect.bisect(others, job["created_at"])
        counts.append(float(round(ended / BATCH)))
    return counts


def measure(jobs: int, count: int) -> tuple[dict[str, list[float]], int]:
    """Seconds of each phase, passes ahead of the jobs of the last; and how many jobs still waited at its end."""
    moments = random.Random(7)
    settings = {"DARKROOM_JOB_TTL_S": "3600", "DARKROOM_ADMIN_KEY": new_token()}
    with Platform.open({**FAKE, **QUIET, **settings}, webhooks=True) as platform:
        keys = {tenant: platform.key(tenant) for tenant in ("greedy", "modest")}
        modest, greedy = (
            httpx.Client(
                base_url=platform.url, timeout=120, headers={"Authorization": f"Bearer {keys[tenant]}"}
            )
            for tenant in ("modest", "greedy")
        )
        with modest, greedy:
            phase(modest, 10, moments)
            samples = {name: phase(modest, count, moments)[0] for name in ("idle", "idle_again")}
            fill(platform.url, jobs, lambda: fresh(COST), keys["greedy"])
            samples["backlog"], served = phase(modest, count, moments)
            left = waiting(greedy)
            samples["passes_ahead"] = passes_ahead(served, ends(greedy))
            return samples, left


def plot_of(samples: dict[str, list[float]]) -> Any:
    """The distributions, as cumulative shares."""
    figure, axes = plots.canvas(figsize=(8, 4))
    series = {name: [each * 1000 for each in samples[name]] for name in ("idle", "idle_again", "backlog")}
    plots.shares(axes, series, "milliseconds", "share of the modest tenant's requests", xlim=(0, None))
    return figure


def main() -> None:
    args = report.parser(__doc__).parse_args()
    jobs, count = (1500, 30) if args.quick else (10_000, 100)
    samples, left = measure(jobs, count)
    if left <= 0:
        raise SystemExit("The backlog was done before the measurement: it says nothing.")
    p50 = {name: statistics.median(values) for name, values in samples.items()}
    p99 = {name: percentile(values, 99) for name, values in samples.items()}
    figures = {
        "added_p99_batches": (p99["backlog"] - p99["idle"]) / BATCH_S,
        "added_p50_batches": (p50["backlog"] - p50["idle"]) / BATCH_S,
        "control_p99_batches": (p99["idle_again"] - p99["idle"]) / BATCH_S,
        "idle_p50_ms": p50["idle"] * 1000,
        "backlog_p50_ms": p50["backlog"] * 1000,
        "backlog_p99_ms": p99["backlog"] * 1000,
        "passes_ahead_mean": statistics.mean(samples["passes_ahead"]),
        "passes_ahead_max": max(samples["passes_ahead"]),
        "backlog_left_jobs": float(left),
    }
    config = {"backlog_jobs": jobs, "requests": count, "batch_s": BATCH_S, "engine": "fake"}
    report.publish(args, "fairness", config, figures, dict(samples), plot_of(samples))


if __name__ == "__main__":
    main()

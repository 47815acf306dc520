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

import asyncio
import bisect
import os
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks import report
from cli.platform import started
from cli.services import process
from cli.services.rabbitmq import RabbitServer
from contracts.tenancy import new_token

COST: Final = "cost=60+15"
BATCH: Final = 8
BATCH_S: Final = 0.060 + BATCH * 0.015
PAGE: Final = 256
LISTED: Final = 100
BETWEEN_S: Final = (0.1, 0.3)


@asynccontextmanager
async def platform(folder: Path) -> AsyncIterator[tuple[httpx.AsyncClient, dict[str, str], int]]:
    """The platform's client, the keys of two tenants, and the worker's process id."""
    rabbit = RabbitServer(folder / "rabbitmq")
    rabbit.start()
    token = new_token()
    environ = {
        **os.environ,
        "DARKROOM_PORT": str(process.free_port()),
        "DARKROOM_BROKER_URL": rabbit.url,
        "DARKROOM_ENGINE": "fake",
        "DARKROOM_MODEL": "fake",
        "DARKROOM_JOB_TTL_S": "3600",
        "DARKROOM_ADMIN_KEY": token,
        "DARKROOM_LOG_LEVEL": "warning",
    }
    try:
        with started(folder / "platform", 1, environ) as running:
            await asyncio.to_thread(running.wait_ready)
            async with httpx.AsyncClient(base_url=running.url, timeout=120) as http:
                keys = {}
                for tenant in ("greedy", "modest"):
                    made = await http.post(
                        "/v1/keys", json={"tenant": tenant}, headers={"Authorization": f"Bearer {token}"}
                    )
                    keys[tenant] = made.raise_for_status().json()["key"]
                worker = running.children[-1].process
                if worker is None:
                    raise RuntimeError("The worker is gone.")
                yield http, keys, worker.pid
    finally:
        rabbit.stop()


async def ask(http: httpx.AsyncClient, key: str, seed: int) -> tuple[float, dict[str, Any]]:
    """Seconds from submit to the finished job, and the job."""
    begun = time.perf_counter()
    response = await http.post(
        "/v1/jobs",
        json={"prompt": COST, "seed": seed},
        headers={"Authorization": f"Bearer {key}", "Prefer": "wait=60"},
    )
    job: dict[str, Any] = response.raise_for_status().json()
    if job["status"] != "succeeded":
        raise RuntimeError(f"The job is {job['status']}.")
    return time.perf_counter() - begun, job


async def phase(
    http: httpx.AsyncClient, key: str, count: int, seeds: random.Random
) -> tuple[list[float], list[dict[str, Any]]]:
    """Latencies of one request at a time, at random moments, and their jobs."""
    taken, jobs = [], []
    for _ in range(count):
        await asyncio.sleep(seeds.uniform(*BETWEEN_S))
        seconds, job = await ask(http, key, seeds.getrandbits(50))
        taken.append(seconds)
        jobs.append(job)
    return taken, jobs


async def queue(http: httpx.AsyncClient, key: str, jobs: int, seeds: random.Random) -> None:
    """That many jobs of one tenant, all queued."""
    for begin in range(0, jobs, PAGE):
        items = [{"prompt": COST, "seed": seeds.getrandbits(50)} for _ in range(min(PAGE, jobs - begin))]
        answer = await http.post(
            "/v1/jobs:batch", json={"requests": items}, headers={"Authorization": f"Bearer {key}"}
        )
        answer.raise_for_status()
        refused = [each for each in answer.json()["data"] if each["status"] >= 400]
        if refused:
            raise RuntimeError(f"{len(refused)} of the backlog were refused: {refused[0]}")


async def waiting(http: httpx.AsyncClient, key: str) -> int:
    """How many of the tenant's jobs are ahead of its newest."""
    newest = await http.get("/v1/jobs", params={"limit": 1}, headers={"Authorization": f"Bearer {key}"})
    return int(newest.raise_for_status().json()["data"][0]["queue_position"] or 0)


async def ends(http: httpx.AsyncClient, key: str) -> list[float]:
    """When the tenant's finished jobs ended, ascending."""
    found: list[float] = []
    params: dict[str, str | int] = {"limit": LISTED}
    while True:
        page = await http.get("/v1/jobs", params=params, headers={"Authorization": f"Bearer {key}"})
        answer = page.raise_for_status().json()
        found += [each["finished_at"] for each in answer["data"] if each["status"] == "succeeded"]
        if not answer["next_cursor"]:
            return sorted(found)
        params["after"] = answer["next_cursor"]


def passes_ahead(jobs: Sequence[dict[str, Any]], others: Sequence[float]) -> list[float]:
    """For each job, how many full passes of others ended, by the store's stamps, between its arrival and the beginning of its own."""
    counts = []
    for job in jobs:
        # Those that shared its pass end when it does; those of the pass before, a pass earlier.
        begun = job["finished_at"] - BATCH_S / 2
        ended = bisect.bisect(others, begun) - bisect.bisect(others, job["created_at"])
        counts.append(float(round(ended / BATCH)))
    return counts


async def measure(folder: Path, jobs: int, count: int) -> tuple[dict[str, list[float]], int]:
    seeds = random.Random(7)
    async with platform(folder) as (http, keys, _):
        await phase(http, keys["modest"], 10, seeds)
        samples = {}
        for name in ("idle", "idle_again"):
            samples[name], _ = await phase(http, keys["modest"], count, seeds)
        await queue(http, keys["greedy"], jobs, seeds)
        samples["backlog"], served = await phase(http, keys["modest"], count, seeds)
        left = await waiting(http, keys["greedy"])
        samples["passes_ahead"] = passes_ahead(served, await ends(http, keys["greedy"]))
        return samples, left


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def plot_of(samples: dict[str, list[float]]) -> Any:
    """The distributions, as cumulative shares."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4))
    for name in ("idle", "idle_again", "backlog"):
        values = samples[name]
        axes.plot(
            [each * 1000 for each in sorted(values)],
            [(i + 1) / len(values) for i in range(len(values))],
            label=name,
        )
    axes.set(xlabel="milliseconds", ylabel="share of the modest tenant's requests", xlim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def main() -> None:
    args = report.parser(__doc__).parse_args()
    jobs, count = (1500, 30) if args.quick else (10_000, 100)
    with tempfile.TemporaryDirectory() as name:
        samples, left = asyncio.run(measure(Path(name), jobs, count))
    if left <= 0:
        raise SystemExit("The backlog was done before the measurement: it says nothing.")
    added = p99(samples["backlog"]) - p99(samples["idle"])
    figures = {
        "added_p99_batches": added / BATCH_S,
        "added_p50_batches": (statistics.median(samples["backlog"]) - statistics.median(samples["idle"]))
        / BATCH_S,
        "control_p99_batches": (p99(samples["idle_again"]) - p99(samples["idle"])) / BATCH_S,
        "idle_p50_ms": statistics.median(samples["idle"]) * 1000,
        "backlog_p50_ms": statistics.median(samples["backlog"]) * 1000,
        "backlog_p99_ms": p99(samples["backlog"]) * 1000,
        "passes_ahead_mean": statistics.mean(samples["passes_ahead"]),
        "passes_ahead_max": max(samples["passes_ahead"]),
        "backlog_left_jobs": float(left),
    }
    config = {"backlog_jobs": jobs, "requests": count, "batch_s": BATCH_S, "engine": "fake"}
    report.publish(args, "fairness", config, figures, dict(samples), plot_of(samples))


if __name__ == "__main__":
    main()

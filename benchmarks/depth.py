"""Whether a long queue costs anything: submit latency, fair takes and memory with 1,000 to 100,000 jobs waiting.

    python -m benchmarks.depth --json out.json --html out.html

Starts a private RabbitMQ and Redis, an API and a worker whose device is slow on purpose, so that what is submitted waits. The queue is
filled step by step, in batches of 256 jobs from several clients at once; at every depth jobs are submitted one at a time, in two equal
arms that alternate (A/A), jobs are taken in fair order and given back, as a worker takes them, and the processes are weighed. Flat
means: the ratios of the deepest to the shallowest are 1 within the control's. Redis holds every job that waits, and grows by so
many bytes for each: that ratio is the bytes of a job, not 1.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from redis import Redis

from benchmarks import report
from benchmarks.latency import resident_mb
from benchmarks.load.embedded import platform
from cli.platform import Platform
from contracts.settings import BackendSettings
from store.stores import open_stores

MODEL: Final = "slow"
PROMPT: Final = "slow=5"
"""Read by the stand-in engine: every pass takes five seconds."""
FILLERS: Final = 4
BATCH: Final = 256
TRIES: Final = 5
TAKEN: Final = 8
"""Jobs of one take: a full batch."""
DEPTHS: Final = (1_000, 10_000, 100_000)
QUICK: Final = (200, 2_000)
WARM_UP: Final = 50
ENVIRON: Final = {
    "DARKROOM_ENGINE": "fake",
    "DARKROOM_MODEL_NAME": MODEL,
    "DARKROOM_JOB_TTL_S": "100000000",
    "DARKROOM_QUEUE_MAX_LENGTH": "1000000",
}
_seeds = itertools.count(1)


def _post(connection: http.client.HTTPConnection, path: str, body: object) -> tuple[int, bytes]:
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def _request() -> dict[str, Any]:
    return {"prompt": PROMPT, "seed": next(_seeds)}


def submit(connection: http.client.HTTPConnection) -> float:
    """Milliseconds until a new job was accepted. Raises `RuntimeError` if it was not."""
    body = _request()
    begun = time.perf_counter()
    status, data = _post(connection, "/v1/jobs", body)
    took_ms = (time.perf_counter() - begun) * 1000
    if status != 202:
        raise RuntimeError(data.decode())
    return took_ms


def sizes(count: int) -> list[int]:
    """`count` jobs in batches that a request may hold."""
    whole, rest = divmod(count, BATCH)
    return [BATCH] * whole + [rest] * (rest > 0)


def _submit_all(connection: http.client.HTTPConnection, requests: list[dict[str, Any]]) -> None:
    """A batch until all of it is accepted: what the API refuses for the moment is sent again. Raises `RuntimeError`."""
    for _ in range(TRIES):
        status, data = _post(connection, "/v1/jobs:batch", {"requests": requests})
        if status not in (200, 207):
            break
        items = json.loads(data)["data"]
        refused = [item for item in items if item["error"]]
        if not refused:
            return
        if any(item["status"] not in (429, 503) for item in refused):
            break
        requests = [requests[item["index"]] for item in refused]
        time.sleep(max(item["retry_after_s"] or 1 for item in refused))
    raise RuntimeError(data.decode()[-500:])


def fill(host: str, count: int) -> float:
    """Submits `count` jobs in batches from `FILLERS` clients at once; answers jobs per second. Raises `RuntimeError`
    unless all are accepted in the end."""
    left = iter(sizes(count))

    def client() -> None:
        connection = http.client.HTTPConnection(host, timeout=120)
        for size in left:
            _submit_all(connection, [_request() for _ in range(size)])
        connection.close()

    begun = time.perf_counter()
    with ThreadPoolExecutor(FILLERS) as pool:
        for done in [pool.submit(client) for _ in range(FILLERS)]:
            done.result()
    return count / (time.perf_counter() - begun)


def at_depth(host: str, count: int) -> dict[str, list[float]]:
    """Milliseconds of single submits, in two equal arms."""
    arms: dict[str, list[float]] = {"a": [], "b": []}
    connection = http.client.HTTPConnection(host)
    for number in range(count):
        arms["a" if number % 2 else "b"].append(submit(connection))
    connection.close()
    return arms


async def takes(redis_url: str, count: int) -> list[float]:
    """Milliseconds of taking `TAKEN` jobs in fair order, each given back before the next."""
    stores = open_stores(BackendSettings(redis_url=redis_url))
    found = []
    try:
        for _ in range(count):
            begun = time.perf_counter()
            taken = await stores.jobs.take(MODEL, "worker-of-the-benchmark", TAKEN)
            # One that meets the worker's own answers less, and tells nothing.
            if len(taken.jobs) == TAKEN:
                found.append((time.perf_counter() - begun) * 1000)
            for job in taken.jobs:
                await stores.jobs.release(job.lease)
    finally:
        await stores.close()
    if len(found) < count / 2:
        raise RuntimeError(f"Of {count} takes only {len(found)} found {TAKEN} jobs that wait.")
    return found


async def waiting(redis_url: str) -> int:
    """How many jobs the store says wait."""
    stores = open_stores(BackendSettings(redis_url=redis_url))
    try:
        return (await stores.jobs.waiting(MODEL))[0]
    finally:
        await stores.close()


def redis_mb(redis_url: str) -> float:
    """Memory of all that Redis holds, in MB (10^6 bytes)."""
    with Redis.from_url(redis_url) as client:
        return float(client.info("memory")["used_memory"]) / 1e6


def measure(running: Platform, depths: tuple[int, ...], count: int) -> dict[int, dict[str, Any]]:
    """At each depth: the arms, the takes, the rate at which it was reached, and megabytes of the processes."""
    assert running.redis is not None
    host, redis_url = running.url.removeprefix("http://"), running.redis.url
    at_depth(host, WARM_UP)
    asyncio.run(takes(redis_url, 5))
    submitted, found = WARM_UP, {}
    for depth in depths:
        rate = fill(host, depth - submitted)
        wait = asyncio.run(waiting(redis_url))
        arms = at_depth(host, count)
        taken = asyncio.run(takes(redis_url, count // 4))
        submitted = depth + count
        found[depth] = {
            **arms,
            "take": taken,
            "waiting": wait,
            "fill_per_s": rate,
            "api_mb": resident_mb(running, "api"),
            "worker_mb": resident_mb(running, "worker-1"),
            "redis_mb": redis_mb(redis_url),
        }
        print(
            f"{depth}: {wait} wait, filled at {rate:.0f}/s, submit p50 {statistics.median(arms['a']):.1f} ms, "
            f"take p50 {statistics.median(taken):.1f} ms",
            flush=True,
        )
    return found


def _percentile(values: list[float], percent: int) -> float:
    return float(statistics.quantiles(values, n=100)[percent - 1])


def figures_of(found: dict[int, dict[str, Any]]) -> dict[str, float]:
    shallow, deep = found[min(found)], found[max(found)]

    def submits(at: dict[str, Any], percent: int) -> float:
        return _percentile(at["a"] + at["b"], percent)

    grown = deep["waiting"] - shallow["waiting"]
    return {
        "depth_min": shallow["waiting"],
        "depth_max": deep["waiting"],
        "submit_p50_ms_shallow": submits(shallow, 50),
        "submit_p50_ms_deep": submits(deep, 50),
        "submit_p50_deep_over_shallow": submits(deep, 50) / submits(shallow, 50),
        "submit_p99_ms_shallow": submits(shallow, 99),
        "submit_p99_ms_deep": submits(deep, 99),
        "submit_p99_deep_over_shallow": submits(deep, 99) / submits(shallow, 99),
        "take_p50_ms_shallow": _percentile(shallow["take"], 50),
        "take_p50_ms_deep": _percentile(deep["take"], 50),
        "take_p50_deep_over_shallow": _percentile(deep["take"], 50) / _percentile(shallow["take"], 50),
        "worker_mb_shallow": shallow["worker_mb"],
        "worker_mb_deep": deep["worker_mb"],
        "worker_mb_deep_over_shallow": deep["worker_mb"] / shallow["worker_mb"],
        "api_mb_deep_over_shallow": deep["api_mb"] / shallow["api_mb"],
        "redis_mb_deep": deep["redis_mb"],
        "redis_bytes_per_job": 1e6 * (deep["redis_mb"] - shallow["redis_mb"]) / grown if grown else 0.0,
        "fill_per_s_deep_over_shallow": deep["fill_per_s"] / shallow["fill_per_s"],
        "control_ratio": statistics.median(
            [statistics.median(each["a"]) / statistics.median(each["b"]) for each in found.values()]
        ),
    }


def plot_of(found: dict[int, dict[str, Any]]) -> Any:
    """Latencies and memory by depth."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(15, 4))
    depths = sorted(found)
    for axes, title, arms in (
        (left, "one submit", ("a", "b")),
        (middle, f"one take of {TAKEN} jobs in fair order", ("take",)),
    ):
        for percent in (50, 99):
            values = [_percentile([each for arm in arms for each in found[d][arm]], percent) for d in depths]
            axes.plot(depths, values, "o-", label=f"p{percent}")
        axes.set(title=title, ylabel="milliseconds")
    for name in ("worker_mb", "api_mb", "redis_mb"):
        values = [found[depth][name] for depth in depths]
        right.plot(depths, values, "o-", label=name.removesuffix("_mb"))
    right.set(title="memory", ylabel="MB")
    for axes in (left, middle, right):
        axes.set(xlabel="jobs waiting", xscale="log", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def _table(found: dict[int, dict[str, Any]]) -> report.Table:
    return [
        ["submitted", "waiting", "submit p50 ms", "p99 ms", "take p50 ms", "worker MB", "API MB", "Redis MB"],
        *(
            [
                depth,
                at["waiting"],
                *(f"{_percentile(at['a'] + at['b'], percent):.2f}" for percent in (50, 99)),
                f"{_percentile(at['take'], 50):.2f}",
                *(f"{at[name]:.0f}" for name in ("worker_mb", "api_mb", "redis_mb")),
            ]
            for depth, at in sorted(found.items())
        ),
    ]


def main() -> None:
    args = report.parser(__doc__).parse_args()
    depths, count = (QUICK, 60) if args.quick else (DEPTHS, 400)
    with (
        tempfile.TemporaryDirectory() as folder,
        platform(Path(folder), "rabbitmq", environ=dict(ENVIRON), pinned=False) as running,
    ):
        found = measure(running, depths, count)
    config = {"depths": depths, "submits": count, "broker": "rabbitmq", "engine": "a stand-in, 5 s a pass"}
    samples = {str(depth): values for depth, values in found.items()}
    figures = figures_of(found)
    line = (
        f"depth: from {figures['depth_min']:.0f} to {figures['depth_max']:.0f} jobs waiting, a submit takes "
        f"{figures['submit_p50_deep_over_shallow']:.2f} of the time (p50; {figures['submit_p50_ms_deep']:.1f} ms), a take "
        f"{figures['take_p50_deep_over_shallow']:.2f}, the worker {figures['worker_mb_deep_over_shallow']:.2f} of the memory; "
        f"Redis holds {figures['redis_bytes_per_job']:.0f} bytes a job"
    )
    report.publish(args, "depth", config, figures, samples, plot_of(found), {"by depth": _table(found)}, line)


if __name__ == "__main__":
    main()

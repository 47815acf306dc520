"""The API under load: cache hits against a constant answer of the same size, and submits by two hundred clients at once.

    python -m benchmarks.api --json out.json --html out.html

Starts a private RabbitMQ and Redis, a worker with the fake engine, and the API with one route more, which answers a constant through the same
server, middleware and routing (`benchmarks/api_server.py`). Where there are two cores the server has one to itself, and all else the other.
Rounds alternate between constant and hit, and the constant is measured twice (A/A). `hit_over_constant` is the ratio of requests
per second. The clients are bare sockets that are kept open: they must cost less than what they measure.
"""

from __future__ import annotations

import statistics
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from benchmarks import report
from benchmarks.lib import bare_http, plots, sockets
from benchmarks.lib.asking import fresh
from benchmarks.lib.cores import isolate, several
from benchmarks.lib.percentiles import percentile
from benchmarks.lib.platform import FAKE, QUIET, Platform
from benchmarks.lib.processes import cpu_s

CONNECTIONS = 64
CLIENTS = 200
REQUEST = fresh()


def deployed(body_bytes: int) -> AbstractContextManager[Platform]:
    settings = {"DARKROOM_JOB_TTL_S": "3600", "DARKROOM_BENCH_BYTES": str(body_bytes)}
    return Platform.open({**FAKE, **QUIET, **settings}, api="benchmarks.api_server")


def hit_body(platform: Platform) -> bytes:
    """Has the image computed once; the body of a hit."""
    platform.http.post("/v1/jobs", json=REQUEST, headers={"Prefer": "wait=30"}).raise_for_status()
    answer = platform.http.post("/v1/jobs", json=REQUEST)
    if answer.headers["x-cache"] != "hit":
        raise RuntimeError("The cache did not do what is measured here.")
    return answer.content


def measure(platform: Platform, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Samples by name: requests per second, CPU microseconds of the server per request, and submit latencies in milliseconds."""
    hit_body(platform)
    api, port = platform.process("api"), int(platform.environ["DARKROOM_PORT"])
    if several():
        isolate([api])
    paths = {"constant": "/constant", "hit": "/v1/jobs", "constant again": "/constant"}
    messages = {name: bare_http.request("POST", path, body=REQUEST) for name, path in paths.items()}
    samples: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name, message in messages.items():
            before = cpu_s([api])
            rate, latencies = sockets.saturate(port, CONNECTIONS, seconds, lambda said=message: said, b"200")  # type: ignore[misc]
            if number:  # the first round warms up
                samples.setdefault(f"{name} per s", []).append(rate)
                spent = 1e6 * (cpu_s([api]) - before) / len(latencies)
                samples.setdefault(f"{name} cpu us", []).append(spent)
    ask = partial(bare_http.request, "POST", "/v1/jobs")
    rate, latencies = sockets.saturate(port, CLIENTS, seconds * 2, lambda: ask(body=fresh()), b"202")
    samples["submits per s"] = [rate]
    samples["submit ms"] = [latency * 1000 for latency in latencies]
    return samples


def figures_of(samples: dict[str, list[float]]) -> dict[str, float]:
    median = {name: statistics.median(values) for name, values in samples.items()}
    return {
        "hit_over_constant": median["hit per s"] / median["constant per s"],
        "control_ratio": median["constant again per s"] / median["constant per s"],
        "hits_per_s": median["hit per s"],
        "constant_per_s": median["constant per s"],
        "hit_cpu_us": median["hit cpu us"],
        "constant_cpu_us": median["constant cpu us"],
        "submits_per_s": median["submits per s"],
        "submit_p50_ms": median["submit ms"],
        "submit_p99_ms": percentile(samples["submit ms"], 99),
    }


def plot_of(samples: dict[str, list[float]]) -> Any:
    figure, axes = plots.canvas(figsize=(8, 4))
    label = f"milliseconds of a submit, {CLIENTS} clients"
    plots.shares(axes, {"submits": samples["submit ms"]}, label, "share of submits", ylim=(0, 1))
    return figure


def main() -> None:
    args = report.parser(__doc__).parse_args()
    rounds, seconds = (3, 2.0) if args.quick else (9, 5.0)
    with deployed(100) as platform:
        size = len(hit_body(platform))
    with deployed(size) as platform:
        samples = measure(platform, rounds, seconds)
    report.publish(
        args,
        "api",
        {
            "connections": CONNECTIONS,
            "clients": CLIENTS,
            "rounds": rounds,
            "seconds": seconds,
            "body_bytes": size,
        },
        figures_of(samples),
        {name: [round(value, 3) for value in values] for name, values in samples.items()},
        plot_of(samples),
    )


if __name__ == "__main__":
    main()

"""The platform beside other servers of models: the same model, steps, batch limit and encoding behind each of them.

    python -m benchmarks.peers --json out.json --html out.html

LitServe, Ray Serve, BentoML, Mosec and celery-batches each get an environment of their own under `.cache/peers` (made at the
first run, gigabytes and minutes each), an application as their documentation recommends for dynamic batching
(`benchmarks/peer_apps`), and the best window of a small sweep. Every server in turn is started, asked to saturation by clients
that each hold one request, offered the same Poisson arrivals at the same rates, and stopped; round after round, the order
reversed each time. The process that draws has one core, all else the others. The platform runs twice in each round: what
differs between the two is noise. `docs/peers.md` tells how to read it.
"""

from __future__ import annotations

import io
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageChops

from benchmarks import report
from benchmarks.arms.ratios import Ratio, ratio
from benchmarks.peer_apps import environments, loads, servers
from benchmarks.peer_apps.environments import NotInstalled
from benchmarks.peer_apps.loads import Latencies, Server, Unanswered
from benchmarks.peer_apps.servers import PEERS, PLATFORM
from cli.services.process import ServiceError

CLIENTS: Final = 32
SHARES: Final = (0.5, 0.8)
"""Loads of the open loop, as shares of what the slowest of `PACERS` does at saturation."""
PACERS: Final = (PLATFORM, "mosec", "litserve")
"""Servers that draw about as fast. A load that is 0.8 of the fastest could be more than the slowest can do."""
HIGH: Final = SHARES[-1]
AGAIN: Final = f"{PLATFORM}_again"
SLO_BATCHES: Final = 2.5
"""The objective: a picture within this many full batches. One may be running, one draws it, half of one for the rest."""
QUICK_PEERS: Final = ("mosec", "litserve")

WINDOWS_MS: Final = {
    "litserve": (1.0, 10.0, 50.0),
    "ray": (1.0, 10.0, 50.0),
    "bentoml": (500.0, 2000.0, 10000.0),
    "mosec": (1.0, 10.0, 50.0),
    "celery": (20.0, 100.0, 250.0),
}
"""The sweep. BentoML's is the latency that it plans for. The second of each is what `--quick` takes without a sweep."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One server in one round. CPU in milliseconds per picture at saturation."""

    rate: float
    failed: int
    drawing_ms: float
    rest_ms: float
    offered: dict[float, Latencies]

    @property
    def p99_ms(self) -> float:
        return self.offered[HIGH].quantile_ms(0.99)


class Comparison:
    """The servers that take part, and why the others do not."""

    def __init__(self, names: list[str], seconds: float, folder: Path) -> None:
        self.names = names
        self.windows_ms = {name: WINDOWS_MS[name][1] for name in names}
        self.failures: dict[str, str] = {}
        self.samples: dict[str, list[Sample]] = {}
        self.sweep: dict[str, dict[float, tuple[float, float]]] = {}
        self.capacity = 0.0
        self._seconds = seconds
        self._folder = folder
        self._reference: bytes = b""
        self._starts = 0

    def prepare(self) -> None:
        """Environments, the picture that all must draw, and the capacity of the slowest of `PACERS`."""
        for name in list(self.names):
            try:
                environments.python_of(name)
            except NotInstalled as error:
                self._give_up(name, f"not installed: {error}")
        with self._serving(PLATFORM, 0) as server:
            self._reference = picture(server)
            loads.saturate(server, CLIENTS, self._seconds / 4)
            self.capacity = loads.saturate(server, CLIENTS, self._seconds).rate
        for name in [each for each in self.names if each in PACERS]:
            sample = self._sample(name, self.windows_ms[name], self._seconds, (), 0)
            if sample is not None:
                self.capacity = min(self.capacity, sample.rate)

    def choose_windows(self) -> None:
        """For each peer the window with the lowest p99 among those within 3 % of its best throughput."""
        for name in list(self.names):
            tried = {}
            for window_ms in WINDOWS_MS[name]:
                sample = self._sample(name, window_ms, self._seconds / 2, (HIGH,), 0)
                if sample is None:
                    break
                tried[window_ms] = (sample.rate, sample.p99_ms)
            else:
                best = max(rate for rate, _ in tried.values())
                fast = [window for window, (rate, _) in tried.items() if rate >= 0.97 * best]
                self.windows_ms[name] = min(fast, key=lambda window: tried[window][1])
                self.sweep[name] = tried

    def run_round(self, number: int) -> None:
        order = [PLATFORM, *self.names, AGAIN]
        for name in order if number % 2 == 0 else order[::-1]:
            sample = self._sample(name, self.windows_ms.get(name, 0), self._seconds, SHARES, number)
            if sample is not None:
                self.samples.setdefault(name, []).append(sample)

    def _sample(
        self, name: str, window_ms: float, seconds: float, shares: tuple[float, ...], number: int
    ) -> Sample | None:
        """One start of a server, and all its phases; None where it fails, which ends its part in the comparison."""
        print(f"{name} ...", file=sys.stderr)
        try:
            with self._serving(name, window_ms) as server:
                if difference(picture(server), self._reference) > 1:
                    raise Unanswered("its pictures are not the platform's")
                loads.saturate(server, CLIENTS, seconds / 4)
                before = servers.cpu_s()
                full = loads.saturate(server, CLIENTS, seconds)
                after = servers.cpu_s()
                if not full.rate:
                    raise Unanswered("it drew nothing in time")
                drawing_ms, rest_ms = (
                    1000 * (b - a) / full.drawn for a, b in zip(before, after, strict=True)
                )
                offered = {
                    share: loads.offer(server, list(loads.arrivals(share * self.capacity, seconds, number)))
                    for share in shares
                }
                return Sample(full.rate, full.failed, drawing_ms, rest_ms, offered)
        except (NotInstalled, ServiceError, Unanswered) as error:
            if name in (PLATFORM, AGAIN):
                raise
            self._give_up(name, f"failed: {error}")
            return None

    def _serving(self, name: str, window_ms: float) -> Any:
        self._starts += 1
        folder = self._folder / str(self._starts)
        return servers.serving(PLATFORM if name == AGAIN else name, window_ms, folder)

    def _give_up(self, name: str, reason: str) -> None:
        print(f"{name}: {reason}", file=sys.stderr)
        self.failures[name] = reason
        self.names.remove(name)
        self.samples.pop(name, None)


def picture(server: Server) -> bytes:
    connection = server.connect()
    try:
        return server.draw(connection, "a red apple on a blue background", 7_000_000)
    finally:
        connection.close()


def difference(one: bytes, other: bytes) -> int:
    """The largest difference of any channel of any pixel, in levels of 255; 255 where the sizes differ."""
    try:
        first, second = (Image.open(io.BytesIO(each)).convert("RGB") for each in (one, other))
    except OSError:
        return 255
    if first.size != second.size:
        return 255
    return int(np.asarray(ImageChops.difference(first, second)).max())


def figures_of(comparison: Comparison) -> dict[str, float]:
    """Medians over the rounds; ratios are of samples of the same round, and below them those to the best peer."""
    samples, slo_s = comparison.samples, slo(comparison.capacity)
    figures: dict[str, float] = {"slo_ms": 1000 * slo_s, "capacity": comparison.capacity}

    def ratios(name: str) -> tuple[Ratio, Ratio]:
        """The platform's throughput and p99 over those of `name`, round by round."""
        rounds = list(zip(samples[PLATFORM], samples[AGAIN], samples[name], strict=True))
        return (
            ratio([(one.rate + two.rate) / 2 for one, two, _ in rounds], [peer.rate for *_, peer in rounds]),
            ratio(
                [(one.p99_ms + two.p99_ms) / 2 for one, two, _ in rounds],
                [peer.p99_ms for *_, peer in rounds],
            ),
        )

    over = {name: ratios(name) for name in comparison.names}
    if over:
        _put(figures, "throughput_over_best_peer", min((each for each, _ in over.values()), key=_median))
        _put(figures, "p99_over_best_peer", max((each for _, each in over.values()), key=_median))
    pairs = list(zip(samples[PLATFORM], samples[AGAIN], strict=True))
    _put(
        figures,
        "control_throughput_ratio",
        ratio(*zip(*((one.rate, two.rate) for one, two in pairs), strict=True)),
    )
    _put(
        figures,
        "control_p99_ratio",
        ratio(*zip(*((one.p99_ms, two.p99_ms) for one, two in pairs), strict=True)),
    )
    for name, (throughput, p99) in over.items():
        _put(figures, f"throughput_over_{name}", throughput)
        _put(figures, f"p99_over_{name}", p99)
        figures[f"window_ms_{name}"] = comparison.windows_ms[name]
    for name, rounds in samples.items():
        figures[f"throughput_{name}"] = statistics.median(each.rate for each in rounds)
        figures[f"drawing_cpu_ms_{name}"] = statistics.median(each.drawing_ms for each in rounds)
        figures[f"other_cpu_ms_{name}"] = statistics.median(each.rest_ms for each in rounds)
        figures[f"failed_{name}"] = sum(
            each.failed + sum(offered.failed for offered in each.offered.values()) for each in rounds
        )
        for share in SHARES:
            offered = [each.offered[share] for each in rounds]
            load = f"{name}_at_{share:.0%}".removesuffix("%")
            figures[f"p50_ms_{load}"] = statistics.median(each.median_ms() for each in offered)
            figures[f"p99_ms_{load}"] = statistics.median(each.quantile_ms(0.99) for each in offered)
            figures[f"goodput_{load}"] = statistics.median(each.within(slo_s) for each in offered)
    return figures


def _median(found: Ratio) -> float:
    return found.median


def _put(figures: dict[str, float], name: str, found: Ratio) -> None:
    """The median and its interval (`benchmarks.arms.ratios`)."""
    figures |= {name: found.median, f"{name}_low": found.low, f"{name}_high": found.high}


def slo(capacity: float) -> float:
    """The objective in seconds, by what a full batch takes on this machine."""
    return SLO_BATCHES * 8 / capacity


def samples_of(comparison: Comparison) -> dict[str, Any]:
    """Of each server and round: throughput, CPU, and all latencies in milliseconds by load."""
    return {
        name: [
            {
                "throughput": round(each.rate, 3),
                "failed": each.failed,
                "drawing_cpu_ms": round(each.drawing_ms, 3),
                "other_cpu_ms": round(each.rest_ms, 3),
                "latencies_ms": {
                    str(share): [round(1000 * taken, 1) for taken in offered.answered_s]
                    for share, offered in each.offered.items()
                },
            }
            for each in rounds
        ]
        for name, rounds in comparison.samples.items()
    }


def plot_of(comparison: Comparison) -> Any:
    """Throughput at saturation, one point a round; and the latencies at the higher load, as shares that took longer."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    for place, (name, rounds) in enumerate(comparison.samples.items()):
        rates = [each.rate for each in rounds]
        left.plot([place] * len(rates), rates, "o", color=f"C{place}", alpha=0.7)
        taken = sorted(1000 * each for sample in rounds for each in sample.offered[HIGH].answered_s)
        longer = [1 - place / len(taken) for place in range(len(taken))]
        right.step(taken, longer, color=f"C{place}", label=name)
    left.set(xticks=range(len(comparison.samples)), ylabel="pictures per second, saturated", ylim=(0, None))
    left.set_xticklabels(comparison.samples, rotation=30)
    left.grid(alpha=0.3, axis="y")
    right.axvline(1000 * slo(comparison.capacity), color="grey", linestyle="--", label="objective")
    right.set(xlabel=f"milliseconds, at {HIGH:.0%} load", ylabel="share that took longer", xscale="log")
    right.set(yscale="log", ylim=(0.005, 1))
    right.legend()
    right.grid(alpha=0.3)
    return figure


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--peers", help="names, with commas between; by default all, with --quick two")
    parser.add_argument(
        "--rounds", type=int, help="rounds in which every server has its turn (4; 1 with --quick)"
    )
    args = parser.parse_args()
    chosen = args.peers.split(",") if args.peers else list(QUICK_PEERS if args.quick else PEERS)
    if unknown := set(chosen) - set(PEERS):
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}; known are {', '.join(PEERS)}")
    rounds, seconds = (1, 3.0) if args.quick else (4, 15.0)
    rounds = args.rounds or rounds
    with tempfile.TemporaryDirectory() as name:
        comparison = Comparison(chosen, seconds, Path(name))
        comparison.prepare()
        if not args.quick:
            comparison.choose_windows()
        for number in range(rounds):
            comparison.run_round(number)
    absent = {
        name: "left out by the arguments" for name in PEERS if name not in chosen + list(comparison.failures)
    }
    config = {
        "rounds": rounds,
        "seconds": seconds,
        "clients": CLIENTS,
        "model": "emoji-turbo",
        "size": "64x64",
        "max_batch": 8,
        "versions": {name: environments.version_of(name) for name in comparison.names},
        "not_measured": comparison.failures | absent,
        "sweep": {
            name: {
                f"{window:g} ms": f"{rate:.1f}/s, p99 {p99:.0f} ms" for window, (rate, p99) in tried.items()
            }
            for name, tried in comparison.sweep.items()
        },
    }
    report.publish(args, "peers", config, figures_of(comparison), samples_of(comparison), plot_of(comparison))


if __name__ == "__main__":
    main()

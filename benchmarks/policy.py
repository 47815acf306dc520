"""Goodput of batching policies on the same arrivals, under a virtual clock: ours, and what other servers do.

    python -m benchmarks.policy --json out.json --html out.html

Goodput is the share of jobs done within their deadlines. Ours is `scheduler.policy.decide`, the very code that workers run.
Against it stand fixed windows (Ray Serve, Mosec, KServe: a batch opens with its first job and leaves when full or when the window
is over), greedy FIFO, and BentoML's adaptive rule (its dispatcher's, with the cost fit known). Arrivals are Poisson, or bursts
(gamma, coefficient of variation 3); deadlines are 3 or 6 full batches after arrival; jobs share one batch key, or three
that cannot be mixed. Device costs are fits of a + b n milliseconds: published ones of GPUs, and one of a processor.

The bound is clairvoyant and generous: it knows every arrival, always works at the speed of full batches, may mix keys, and may
split a job's time as it likes within its window. Jobs of one length and their windows form a convex bipartite graph with
the device's time slots, on which the earliest deadline first is an optimal matching (Glover 1967).
"""

from __future__ import annotations

import heapq
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchmarks import report
from contracts.engine import BatchKey
from scheduler.policy import Device, Dispatch, Sample, decide

LIMIT: Final = 8
FITS_MS: Final = {
    "cpu": (6.0, 7.0),
    "a100_eager": (50.0, 40.0),
    "a100_tensorrt": (8.5, 27.7),
    "4090_tensorrt": (4.8, 31.7),
}
WINDOWS_MS: Final = (5, 20, 50, 100)
LOADS: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
KEYS: Final = tuple(BatchKey("m", side, side, guided=False) for side in (512, 640, 768))
MIXES: Final = {"one_key": (1.0,), "mixed_keys": (0.7, 0.2, 0.1)}
PATIENCE: Final = (3, 6)
TICK_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class Arrival:
    at: float
    deadline: float
    key: BatchKey


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a pass of n images: a + b n."""

    a: float
    b: float

    def __call__(self, images: int) -> float:
        return self.a + self.b * images

    @property
    def capacity(self) -> float:
        """Images per second in full batches."""
        return LIMIT / self(LIMIT)


Choice = tuple[list[int], list[int]] | float
"""What to run and what to drop, as indices into the queue; or when to look again."""
Policy = Callable[[float, Sequence[Arrival], Cost], Choice]


def ours(now: float, queue: Sequence[Arrival], cost: Cost) -> Choice:
    samples = [Sample(each.key, tag=each.at, deadline=each.deadline) for each in queue]
    decision = decide(now, samples, Device(lambda _: LIMIT, lambda _, n: cost(n)))
    if isinstance(decision, Dispatch):
        return list(decision.batch), list(decision.late)
    return [], list(decision.late)


def alike(queue: Sequence[Arrival]) -> list[int]:
    """The oldest, and those after it that may share its batch."""
    return [i for i, each in enumerate(queue) if each.key == queue[0].key][:LIMIT]


def fifo(now: float, queue: Sequence[Arrival], cost: Cost) -> Choice:
    return alike(queue), []


def window(width_s: float) -> Policy:
    def policy(now: float, queue: Sequence[Arrival], cost: Cost) -> Choice:
        batch = alike(queue)
        over = queue[0].at + width_s
        return (batch, []) if len(batch) == LIMIT or now >= over - 1e-9 else over

    return policy


class Bento:
    """BentoML 1.4's dispatcher: waits while the jobs at hand times what one more would cost them stay below the mean wait."""

    def __init__(self) -> None:
        self._wait = 0.01

    def __call__(self, now: float, queue: Sequence[Arrival], cost: Cost) -> Choice:
        batch = alike(queue)
        n, newest = len(batch), now - queue[batch[-1]].at
        late = [i for i in batch if n > 1 and now + cost(n) > queue[i].deadline][:1]
        if late:
            return [], late
        if n < LIMIT and n * (newest + TICK_S + cost.b) <= 0.95 * self._wait:
            return now + TICK_S
        self._wait = 0.9 * self._wait + 0.1 * (now - queue[0].at)
        return batch, []


def simulate(arrivals: Sequence[Arrival], cost: Cost, policy: Policy) -> tuple[float, float]:
    """Goodput and images per second of one device."""
    now, queue, upcoming, met, done = 0.0, list[Arrival](), 0, 0, 0
    while queue or upcoming < len(arrivals):
        if not queue:
            now = max(now, arrivals[upcoming].at)
        while upcoming < len(arrivals) and arrivals[upcoming].at <= now:
            queue.append(arrivals[upcoming])
            upcoming += 1
        choice = policy(now, queue, cost)
        if isinstance(choice, float):
            # A job that comes meanwhile may fill the batch.
            next_at = arrivals[upcoming].at if upcoming < len(arrivals) else math.inf
            now = min(choice, next_at)
            continue
        batch, dropped = choice
        if batch:
            now += cost(len(batch))
            done += len(batch)
            met += sum(queue[i].deadline >= now - 1e-9 for i in batch)
        gone = {*batch, *dropped}
        queue = [each for i, each in enumerate(queue) if i not in gone]
    return met / len(arrivals), done / now


def clairvoyant(arrivals: Sequence[Arrival], cost: Cost) -> float:
    """No policy has a higher goodput than this."""
    slot = cost(LIMIT) / LIMIT
    now, waiting, upcoming, met = 0.0, list[float](), 0, 0
    while waiting or upcoming < len(arrivals):
        if not waiting:
            now = max(now, arrivals[upcoming].at // slot * slot)
        while upcoming < len(arrivals) and arrivals[upcoming].at < now + slot:
            heapq.heappush(waiting, arrivals[upcoming].deadline)
            upcoming += 1
        while waiting and waiting[0] <= now:
            heapq.heappop(waiting)
        if waiting:
            heapq.heappop(waiting)
            met += 1
        now += slot
    return met / len(arrivals)


def trace(
    rng: np.random.Generator, jobs: int, rate: float, mix: Sequence[float], bursty: bool, cost: Cost
) -> list[Arrival]:
    """Arrivals of `rate` a second."""
    shape = 1 / 9 if bursty else 1.0
    times = np.cumsum(rng.gamma(shape, 1 / (rate * shape), jobs))
    keys = rng.choice(len(mix), jobs, p=mix)
    patience = rng.choice(PATIENCE, jobs)
    return [
        Arrival(float(at), float(at + times_ * cost(LIMIT)), KEYS[key])
        for at, key, times_ in zip(times, keys, patience, strict=True)
    ]


def measure(jobs: int, seed: int) -> dict[str, dict[str, list[float]]]:
    """Goodput by scenario and policy, one value for each load; `bound` among the policies."""
    samples: dict[str, dict[str, list[float]]] = {}
    for fit, (a, b) in FITS_MS.items():
        cost = Cost(a / 1000, b / 1000)
        for mix, shares in MIXES.items():
            for bursty in (False, True):
                rows = samples.setdefault(f"{fit} {mix} {'bursts' if bursty else 'poisson'}", {})
                for load in LOADS:
                    rng = np.random.default_rng(seed)
                    arrivals = trace(rng, jobs, load * cost.capacity, shares, bursty, cost)
                    policies: dict[str, Policy] = {"ours": ours, "fifo": fifo, "bentoml": Bento()}
                    policies |= {f"window_{ms}": window(ms / 1000) for ms in WINDOWS_MS}
                    for name, policy in policies.items():
                        goodput, rate = simulate(arrivals, cost, policy)
                        rows.setdefault(name, []).append(goodput)
                        rows.setdefault(f"{name} rate", []).append(rate / cost.capacity)
                    rows.setdefault("bound", []).append(clairvoyant(arrivals, cost))
    return samples


def figures_of(samples: dict[str, dict[str, list[float]]]) -> dict[str, float]:
    at = LOADS.index(0.9)
    over_bound = [rows["ours"][at] / rows["bound"][at] for rows in samples.values()]
    rivals = ["fifo", *(f"window_{ms}" for ms in WINDOWS_MS)]
    over_best = [
        rows["ours"][i] / max(rows[name][i] for name in rivals)
        for rows in samples.values()
        for i in range(len(LOADS))
    ]
    over_bento = [
        rows["ours"][i] / rows["bentoml"][i] for rows in samples.values() for i in range(len(LOADS))
    ]
    return {
        "goodput_over_clairvoyant_090": min(over_bound),
        "goodput_over_clairvoyant_090_median": statistics.median(over_bound),
        "goodput_over_best_window_min": min(over_best),
        "goodput_over_best_window_median": statistics.median(over_best),
        "goodput_over_bentoml_min": min(over_bento),
        "goodput_over_bentoml_median": statistics.median(over_bento),
    }


def plot_of(samples: dict[str, dict[str, list[float]]]) -> Any:
    """Goodput over load, one panel a scenario."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(4, 4, figsize=(14, 12), sharex=True, sharey=True)
    for axes, (scenario, rows) in zip(grid.flat, samples.items(), strict=True):
        for name, values in rows.items():
            if name.endswith(" rate"):
                continue
            bold = name == "ours"
            style = "k--" if name == "bound" else "-"
            axes.plot(LOADS, values, style, label=name, linewidth=2.5 if bold else 1, zorder=3 if bold else 2)
        axes.set_title(scenario, fontsize=9)
        axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize=7)
    figure.supxlabel("load, as a share of capacity")
    figure.supylabel("goodput")
    return figure


def main() -> None:
    args = report.parser(__doc__).parse_args()
    jobs = 600 if args.quick else 4000
    samples = measure(jobs, seed=1)
    config = {"jobs": jobs, "limit": LIMIT, "loads": LOADS, "fits_ms": FITS_MS, "patience": PATIENCE}
    report.publish(args, "policy", config, figures_of(samples), dict(samples), plot_of(samples))


if __name__ == "__main__":
    main()

"""What a simulation must be told of a real platform, from the samples of runs on it. Pure.

Simulated is what the scheduler makes of arrivals: who waits for which batch, and how full it is. Measured, and told, is what
decides nothing: what a batch of n images takes, and the ways of a request to the queue and from its batch to the client.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.load import measure
from benchmarks.load.sample import Sample
from benchmarks.plan.devices import Device
from benchmarks.plan.fleet import Simulation
from benchmarks.plan.state import Config

Floats = npt.NDArray[np.float64]
Run = Sequence[Sample]

STRETCH: Final = 16
"""Of measured values, so many follow one another on average as they were measured."""
NEAR: Final = 2 * STRETCH
"""They begin at most so many values from the place that they are drawn for."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Seconds. A batch of n images takes a + b n, times one of `ratios`; `gap_s` is between a batch's end and the next one's begin.
    `ways` has a row for each request of an idle platform: from its record to its worker, and from its batch to its
    record's end. `overheads` is what a client sees beyond that. Ratios and overheads are those of one run, in order of time. `spreads[n]` tells
    of batches of n images when each of them was answered, counted from the first."""

    a_s: float
    b_s: float
    ratios: Floats
    gap_s: float
    ways: Floats
    overheads: Floats
    spreads: dict[int, list[Floats]]

    def taken(self, rng: np.random.Generator) -> Callable[[int], float]:
        """How long a batch of so many images takes this time, and what comes between it and the next."""

        ratios = stretches(self.ratios, rng)

        def seconds(images: int) -> float:
            return (self.a_s + self.b_s * images) * next(ratios) + self.gap_s

        return seconds

    def spread(self, images: int, rng: np.random.Generator) -> Floats:
        """When each of the images of a batch is answered, from the first on; as in a batch of the nearest size."""
        size = min(self.spreads, key=lambda size: (abs(size - images), -size))
        drawn = self.spreads[size][int(rng.integers(len(self.spreads[size])))]
        return np.interp(np.arange(images), np.arange(len(drawn)), drawn)


def calibrated(idle: Sequence[Run], loaded: Sequence[Run], full: Sequence[Run], twin: Run) -> Calibration:
    """From runs with one request at a time, runs under load of any kind, those among them that never let the device idle, and
    another run of the load that is to be simulated: it tells of what that load does to the machine, how batches deviate and how long
    the overhead is."""
    a, b = line([each for run in loaded for each in batches(run)])
    ratios = np.asarray([seconds / (a + b * images) for images, seconds in batches(twin)])
    ways = np.asarray(
        [
            (each.queued_ms / 1000, max(0.0, each.server_s - (each.queued_ms + each.batch_ms) / 1000))
            for run in idle
            for each in measure.computed(run)
            if each.batch_size == 1 and each.server_s and each.queued_ms and each.batch_ms
        ]
    )
    overheads = np.asarray(
        [
            each.latency_s - each.server_s
            for each in sorted(measure.computed(twin), key=lambda each: each.at_s)
            if each.server_s
        ]
    )
    spreads: dict[int, list[Floats]] = defaultdict(list)
    for run in loaded:
        for size, ends in together(run):
            spreads[size].append(ends)
    gap_s = float(np.median([busy(run)[1] for run in full]))
    return Calibration(a, b, ratios, gap_s, ways, overheads, dict(spreads))


def stretches(run: Floats, rng: np.random.Generator) -> Iterator[float]:
    """Values of a run without end: from a place near the present one on, as they came, and after `STRETCH` of them on average from
    another (a local block bootstrap: Paparoditis and Politis 2002). A slow moment of a machine lasts longer than a batch, and comes
    when many requests do if they share its cores; queues feel both: drawn one by one, from anywhere, the same values would make
    other tails."""
    place = 0
    while True:
        begin = place + int(rng.integers(-NEAR, NEAR + 1))
        length = int(rng.geometric(1 / STRETCH))
        for drawn in range(begin, begin + length):
            yield float(run[drawn % len(run)])
        place += length


def _by_batch(samples: Run) -> dict[tuple[int, float], list[Sample]]:
    found: dict[tuple[int, float], list[Sample]] = defaultdict(list)
    for each in measure.computed(samples):
        found[(int(each.batch_size or 1), float(each.batch_ms or 0.0))].append(each)
    return found


def batches(samples: Run) -> list[tuple[int, float]]:
    """(images, seconds) of the batches that the samples tell of, in order of time: one for each n that shared one of n."""
    ended = sorted(_by_batch(samples).items(), key=lambda each: min(one.ended_s for one in each[1]))
    return [
        (images, took_ms / 1000)
        for (images, took_ms), members in ended
        for _ in range(max(1, round(len(members) / images)))
    ]


def together(samples: Run) -> list[tuple[int, Floats]]:
    """(images, when each was answered from the first on) of every batch all of whose images are among the samples."""
    return [
        (images, ends - ends[0])
        for (images, _), members in _by_batch(samples).items()
        if len(members) == images
        for ends in [np.sort([each.ended_s for each in members])]
    ]


def line(found: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """(a, b): the line through the medians of each size, weighted by how often it ran."""
    by_size: dict[int, list[float]] = defaultdict(list)
    for images, seconds in found:
        by_size[images].append(seconds)
    sizes = np.asarray(sorted(by_size), float)
    medians = np.asarray([float(np.median(by_size[int(size)])) for size in sizes])
    if len(sizes) == 1:
        return 0.0, float(medians[0] / sizes[0])
    weights = np.sqrt([len(by_size[int(size)]) for size in sizes])
    b, a = (float(value) for value in np.polyfit(sizes, medians, 1, w=weights))
    return max(0.0, a), max(1e-6, b)


def busy(samples: Run) -> tuple[float, float]:
    """(images a second, seconds between a batch's end and the next one's begin) of a run that never lets the device idle, in its
    middle: neither while the queue fills nor while it empties."""
    ends = sorted(
        (min(each.ended_s for each in members), images, took_ms / 1000)
        for (images, took_ms), members in _by_batch(samples).items()
    )
    inner = ends[len(ends) // 6 : max(len(ends) // 6 + 2, len(ends) - 1)]
    span_s = inner[-1][0] - inner[0][0]
    rate = sum(images for _, images, _ in inner[1:]) / span_s
    return rate, max(0.0, (span_s - sum(took_s for *_, took_s in inner[1:])) / (len(inner) - 1))


def simulate(times: Sequence[float], known: Calibration, max_batch: int, seed: int) -> Floats:
    """Latencies, in seconds, of requests at these times on one worker."""
    rng = np.random.default_rng(seed)
    came = np.asarray(times)
    ways = known.ways[rng.integers(len(known.ways), size=len(came))]
    overheads = np.fromiter(stretches(known.overheads, rng), float, len(came))
    # Half of the overhead lies before the queue: the request, and behind it the answer.
    queued = came + overheads / 2 + ways[:, 0]
    order = np.argsort(queued, kind="stable")
    config = Config(Device("measured", known.a_s, known.b_s), max_batch, start=1)
    outcome = Simulation(queued[order].tolist(), config, rng, taken=known.taken(rng)).run()
    drawn: Floats = np.empty(len(came))
    drawn[order] = np.asarray(outcome.ended) - known.gap_s
    answered = drawn + ways[:, 1] + overheads / 2
    for at in np.unique(drawn):
        (members,) = np.nonzero(drawn == at)
        answered[members] += known.spread(len(members), rng)
    latencies: Floats = answered - came
    return latencies

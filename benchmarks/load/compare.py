"""A run against an earlier one: by how much it differs, and whether that can be chance. Pure.

Requests next to each other share a queue, so they are no independent samples: the bootstrap draws blocks of time (Künsch 1989).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

BLOCK_S: Final = 1.0
ROUNDS: Final = 1000
TOLERANCE: Final = 0.05
"""A difference below this is none, however sure it is."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Run:
    """The columns of a report that are compared. `good` is 1.0 where a request succeeded within the SLO."""

    at_s: Floats
    latency_s: Floats
    ok: Floats
    good: Floats

    @classmethod
    def of(cls, samples: dict[str, Any], slo_s: float) -> Run:
        """From `measure.columns`."""
        latency = np.asarray(samples["latency_s"], float)
        ok = np.asarray([outcome == "succeeded" for outcome in samples["outcome"]], float)
        return cls(np.asarray(samples["at_s"], float), latency, ok, ok * (latency <= slo_s))


@dataclass(frozen=True, slots=True)
class Difference:
    """`ratio` of new over old with its 95 % interval. `regressed`: surely worse, by more than the tolerance."""

    name: str
    old: float
    new: float
    ratio: float
    low: float
    high: float
    regressed: bool

    def __str__(self) -> str:
        verdict = "WORSE" if self.regressed else "ok"
        return (
            f"{self.name}: {self.old:.4g} -> {self.new:.4g}, x{self.ratio:.3f} "
            f"(95 %: {self.low:.3f} to {self.high:.3f}) {verdict}"
        )


def _percentile(percent: float) -> Callable[[Run], float]:
    def value(run: Run) -> float:
        answered = run.latency_s[run.ok > 0]
        return float(np.percentile(answered, percent)) * 1000 if len(answered) else float("nan")

    return value


STATISTICS: Final[dict[str, tuple[Callable[[Run], float], bool]]] = {
    "p50_ms": (_percentile(50), False),
    "p95_ms": (_percentile(95), False),
    "p99_ms": (_percentile(99), False),
    "within_slo": (lambda run: float(run.good.mean()), True),
}
"""Of a run, and whether more is better."""


def resample(run: Run, rng: np.random.Generator) -> Run:
    """As many blocks of `BLOCK_S` as there are, drawn with replacement."""
    blocks = (run.at_s / BLOCK_S).astype(int)
    order = np.argsort(blocks, kind="stable")
    _, starts = np.unique(blocks[order], return_index=True)
    groups = np.split(order, starts[1:])
    chosen = np.concatenate([groups[index] for index in rng.integers(len(groups), size=len(groups))])
    return Run(run.at_s[chosen], run.latency_s[chosen], run.ok[chosen], run.good[chosen])


def compare(old: Run, new: Run, tolerance: float = TOLERANCE, seed: int = 1) -> list[Difference]:
    """Each statistic's difference. Raises `ValueError` for a run without requests."""
    if not len(old.at_s) or not len(new.at_s):
        raise ValueError("A run without requests cannot be compared.")
    rng = np.random.default_rng(seed)
    pairs = [(resample(old, rng), resample(new, rng)) for _ in range(ROUNDS)]
    found = []
    for name, (statistic, more_is_better) in STATISTICS.items():
        before, after = statistic(old), statistic(new)
        with np.errstate(all="ignore"):
            ratios = np.asarray([np.float64(statistic(b)) / np.float64(statistic(a)) for a, b in pairs])
        low, high = np.nanpercentile(ratios, (2.5, 97.5))
        worse = high < 1 - tolerance if more_is_better else low > 1 + tolerance
        ratio = after / before if before else float("nan")
        found.append(Difference(name, before, after, ratio, float(low), float(high), bool(worse)))
    return found

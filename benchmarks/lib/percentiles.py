"""Percentiles of samples."""

from __future__ import annotations

import statistics
from collections.abc import Iterable


def percentile(values: Iterable[float], percent: int) -> float:
    """The value that `percent` of a hundred stay below; between two samples in proportion."""
    return float(statistics.quantiles(values, n=100)[percent - 1])

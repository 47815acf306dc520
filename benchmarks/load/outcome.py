"""What a run comes to: its line, and the exit code by what happened. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.load.capacity import Trial

WELL: Final = 0
NO_ANSWER: Final = 1
ARGUMENTS: Final = 2
REGRESSED: Final = 3
LOST: Final = 4
ERRORS: Final = 5
CODES: Final = {
    WELL: "all well",
    NO_ANSWER: "the server does not answer, or not one request succeeded",
    ARGUMENTS: "bad arguments",
    REGRESSED: "surely worse than the --baseline",
    LOST: "accepted jobs are lost, or the platform's own books do not balance",
    ERRORS: "more requests than --max-errors were refused or failed",
}
"""The gravest decides: lost jobs, then no answer, then errors, then a regression."""
SHOWN: Final = 5
"""Codes of errors that the summary names; the report names all."""


def exit_code(*, lost: bool, answered: bool, error_share: float, max_errors: float, regressed: bool) -> int:
    if lost:
        return LOST
    if not answered:
        return NO_ANSWER
    if error_share > max_errors:
        return ERRORS
    return REGRESSED if regressed else WELL


def summary(
    figures: Mapping[str, float],
    slo_s: float,
    errors: Mapping[str, int],
    capacity: str | None = None,
    warning: str | None = None,
) -> str:
    """The whole run in one line; what went wrong comes first."""
    parts = []
    if errors:
        codes = [f"{count} {code}" for code, count in errors.items()]
        more = [f"and {len(codes) - SHOWN} more codes"] if len(codes) > SHOWN else []
        parts.append(f"{figures['error_share']:.2%} ERRORS: {', '.join(codes[:SHOWN] + more)}")
    parts.append(f"{figures['offered_per_s']:.3g} req/s offered, {figures['throughput_per_s']:.3g} answered")
    if "p50_ms" in figures:
        parts.append(f"p50 {figures['p50_ms']:.0f} ms, p99 {figures['p99_ms']:.0f} ms")
    else:
        parts.append("NOTHING WAS ANSWERED")
    parts.append(f"{figures['within_slo']:.2%} within {slo_s:g} s")
    if not errors:
        parts.append("no errors")
    parts.append(f"{figures['lost']:.0f} lost of {figures['accepted']:.0f} accepted")
    if "p50_ms" in figures:
        parts.append(f"cache {figures['cache_hit_share']:.0%} + {figures['joined_share']:.0%} joined")
    if capacity:
        parts.append(capacity)
    if warning:
        parts.append(f"NOT THE SERVER'S: {warning}; use more --processes or another machine")
    return "load: " + "; ".join(parts)


def is_confirmed(found: float, again: bool, last: Trial) -> bool:
    """Whether the capacity `found` held `again` when it was tried again, and the `last` run, if it was no faster, held too."""
    return found > 0 and again and (last.holds or last.rate > found)


def describe_capacity(found: float, again: bool, trials: Sequence[Trial], last: Trial) -> str:
    """The capacity in words, as `is_confirmed` judges it."""
    if found == 0.0:
        lowest = min((each.rate for each in trials), default=0.0)
        return f"NO CAPACITY: not even {lowest:.3g} req/s held the SLO"
    if is_confirmed(found, again, last):
        return f"capacity {found:.3g} req/s, confirmed"
    broke = (
        f"the run at {last.rate:.3g} req/s did not hold the SLO"
        if again
        else "it broke when it was tried again"
    )
    return f"capacity {found:.3g} req/s NOT CONFIRMED: {broke}"

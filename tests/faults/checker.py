"""The one judge of all rounds, in the manner of Jepsen: it sees a history and knows nothing of how it came about.

A  accepted = succeeded + failed + canceled + expired, by the store's counters and by what each client was told
L  nothing accepted or recorded is lost, or ends otherwise than the row allows
D  nothing is seen twice: one terminal transition per job, and a state that was told stays
X  extra computations <= jobs in flight at the faults
T  everything terminal by its deadline and one sweep
R  throughput back to 90 % within 30 s of healing, or nothing left to do
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Final

from tests.faults.history import TERMINAL, Counts, History

SWEEP_S: Final = 1.5
"""One sweep, and the time it takes."""
RECOVERY_S: Final = 30.0
RECOVERED: Final = 0.9
WINDOW_S: Final = 1.0


def check(history: History, properties: str) -> list[str]:
    """The violations of `properties` (letters of the list above), each beginning with its letter; empty: none."""
    found = [
        f"{letter}: {violation}"
        for letter in properties
        if letter in _CHECKS
        for violation in _CHECKS[letter](history)
    ]
    return found + history.findings


def _accounted(history: History) -> list[str]:
    found = []
    for submit in history.accepted:
        final = history.finals.get(submit.job_id)
        if final is not None and final.status not in TERMINAL:
            found.append(f"{submit.job_id} was accepted and is {final.status}")
    if history.before is not None and history.after is not None:
        found += _balanced(history.before, history.after)
    return found


def _balanced(before: Counts, after: Counts) -> list[str]:
    recorded = after.recorded - before.recorded
    ended = sum(after.ended.values()) - sum(before.ended.values())
    live = after.live - before.live
    if recorded != ended + live:
        return [f"{recorded} recorded, but {ended} ended and {live} live"]
    return [f"{live} are still live"] if live else []


def _lost(history: History) -> list[str]:
    found = []
    for submit in history.accepted:
        if submit.job_id not in history.finals:
            found.append(f"{submit.job_id} was accepted and is gone")
    for job_id, final in history.finals.items():
        if final.status in TERMINAL and final.status not in history.allowed:
            found.append(f"{job_id} ended {final.status} {final.code}".rstrip())
    return found


def _doubled(history: History) -> list[str]:
    found = [
        f"{job_id} ended {times} times" for job_id, times in history.terminal_events.items() if times > 1
    ]
    for job_id, final in history.finals.items():
        if final.seen in TERMINAL and final.seen != final.status:
            found.append(f"{job_id} was told {final.seen} and is {final.status}")
    if history.before is not None and history.after is not None:
        recorded = history.after.recorded - history.before.recorded
        ended = sum(history.after.ended.values()) - sum(history.before.ended.values())
        if ended > recorded:
            found.append(f"{ended} terminal transitions of {recorded} jobs")
    return found


def _recomputed(history: History) -> list[str]:
    extra = sum(times - 1 for times in history.computations.values() if times > 1)
    if extra > history.in_flight:
        return [f"{extra} extra computations, {history.in_flight} jobs in flight at the faults"]
    return []


def _late(history: History) -> list[str]:
    found = []
    for job_id, final in history.finals.items():
        if final.status not in TERMINAL:
            found.append(f"{job_id} is still {final.status}")
        elif final.finished_at > final.deadline + SWEEP_S:
            found.append(f"{job_id} ended {final.finished_at - final.deadline:.1f} s after its deadline")
        elif final.status == "expired" and final.finished_at < final.deadline - 0.01:
            found.append(f"{job_id} expired {final.deadline - final.finished_at:.1f} s early")
    return found


def recovery_s(history: History) -> float | None:
    """Seconds from healing until the rate over a second was 90 % of that before the first fault, or nothing was left to do;
    None: never."""
    times = sorted(final.finished_at for final in history.finals.values() if final.status == "succeeded")
    if not times or not history.faults:
        return None
    first = history.faults[0][0]
    before = bisect_left(times, first)
    rate = before / max(WINDOW_S, first - times[0]) if before else 0.0
    for time in times[bisect_left(times, history.healed) :]:
        ended = bisect_right(times, time) - bisect_left(times, max(history.healed, time - WINDOW_S))
        if ended / WINDOW_S >= RECOVERED * rate:
            return time - history.healed
    return max(0.0, times[-1] - history.healed)


def _unrecovered(history: History) -> list[str]:
    seconds = recovery_s(history)
    if seconds is None:
        return ["nothing has succeeded"]
    history.notes["recovery_s"] = round(seconds, 2)
    return [f"back after {seconds:.1f} s"] if seconds > RECOVERY_S else []


_CHECKS: Final[dict[str, Callable[[History], list[str]]]] = {
    "A": _accounted,
    "L": _lost,
    "D": _doubled,
    "X": _recomputed,
    "T": _late,
    "R": _unrecovered,
}

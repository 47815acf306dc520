"""Throughput before, during and after a fault, under a load that keeps the workers busy."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Final

from tests.faults.round import Round, Row
from tests.faults.rows import rabbit_restarted, redis_killed, worker_killed
from tests.faults.site import Site

SECONDS: Final = 60.0
RATE: Final = 12.0
"""Jobs per second: about 80 % of what two workers do with these prompts."""
PROMPT: Final = "slow=0.5"
WINDOW_S: Final = 3.0
RECOVERED: Final = 0.9

RECOVERY_ROWS: Final[dict[int, Callable[[Round], None]]] = {
    1: worker_killed,
    4: rabbit_restarted,
    9: redis_killed,
}


class _Steady(Round):
    """A round whose load is long and even, and whose fault comes a third into it."""

    def load(self, seconds: float = 0.0, jobs: int | None = None, at: str = "api", **rest: Any) -> Any:
        if self.loads:
            return self.loads[0]  # what a row adds after healing would blur the picture
        return super().load(SECONDS, int(SECONDS * RATE), prompt=PROMPT)

    def some(self, low: float = 0.0, high: float = 0.0) -> int:
        return int(SECONDS * RATE / 3)


def measure(site: Site, number: int) -> dict[str, Any]:
    """`finished`: seconds since the fault of every job that ended; `recovery_s`: from healing until the rate over `WINDOW_S`
    was back at 90 % of that before the fault; `healed_s` after the fault."""
    row = Row(number, "recovery", "", RECOVERY_ROWS[number])
    if site.extra or site.mutants:
        site.end()
        site.extra, site.mutants = {}, ()
    site.clear()
    site.ensure()
    one = _Steady(site, row, 0)
    one.begin()
    row.run(one)
    history = one.end()
    fault = history.faults[0][0]
    times = sorted(f.finished_at - fault for f in history.finals.values() if f.status == "succeeded")
    healed = history.healed - fault
    before = rate_at(times, 0.0, span_s=10.0)
    end = times[-1]
    back = healed
    while back < end and rate_at(times, back + WINDOW_S) < RECOVERED * before:
        back += 0.1
    return {
        "finished": [round(time, 2) for time in times],
        "healed_s": round(healed, 2),
        "rate_before": round(before, 2),
        "recovery_s": round(back - healed, 2),
    }


def rate_at(times: list[float], at: float, span_s: float = WINDOW_S) -> float:
    """Per second over the `span_s` before `at`; `times` ascending."""
    return (bisect_right(times, at) - bisect_right(times, at - span_s)) / span_s

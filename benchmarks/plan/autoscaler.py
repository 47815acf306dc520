"""How many workers there should be: the rule of KEDA and of the HorizontalPodAutoscaler behind it. Pure.

https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details: for a metric with an
average value as its target, desired = ceil(total / target), unless that is within the tolerance of what there is; scaling down
goes to the highest wish of the stabilisation window. The metric is KEDA's formula of two: the work that comes, and the
work that waits spread over the time in which it is to be gone.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Rule:
    """`utilisation`: the share of its full rate that a worker is to be loaded with; at 1.0 it is the backlog's part that
    asks for one more in time, which an SLO of several passes has room for. `drain_s`: in what time a backlog is to be
    gone. HPA's own defaults are `poll_s` 15, `tolerance` 0.1, `down_window_s` 300."""

    utilisation: float = 1.0
    drain_s: float = 30.0
    poll_s: float = 15.0
    rate_window_s: float = 60.0
    tolerance: float = 0.0
    down_window_s: float = 60.0
    most_up: float = 1.0
    """At most this share of what there is (but always 4) may be added at one poll."""
    least: int = 1
    most: int = 100_000


@dataclass(slots=True)
class Autoscaler:
    """The rule with its memory of earlier wishes. `desired` once per poll."""

    rule: Rule
    _wishes: deque[tuple[float, int]] = field(default_factory=deque)

    def desired(self, now: float, current: int, load: float, backlog_s: float) -> int:
        """`load`: work that comes, in workers kept wholly busy by it; `backlog_s`: all the work that waits, in seconds of one."""
        rule = self.rule
        wish = self._wish(current, load + backlog_s / rule.drain_s, rule.utilisation)
        wish = min(rule.most, max(rule.least, wish))
        self._wishes.append((now, wish))
        while self._wishes[0][0] < now - rule.down_window_s:
            self._wishes.popleft()
        if wish > current:
            return min(wish, current + max(4, math.floor(rule.most_up * current)))
        return min(current, max(each for _, each in self._wishes))

    def _wish(self, current: int, total: float, target: float) -> int:
        if current and abs(total / (target * current) - 1) <= self.rule.tolerance:
            return current
        return math.ceil(total / target - 1e-9)

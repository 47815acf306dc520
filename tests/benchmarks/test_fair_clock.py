"""The simulation's fair clock: start-time fair queueing, by its properties."""

from __future__ import annotations

import heapq

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.plan.fair_clock import FairClock

flows = st.sampled_from("abc")


@given(st.lists(st.tuples(flows, st.floats(0.5, 20)), max_size=60))
def test_tags_of_a_flow_never_go_back_and_never_precede_virtual_time(jobs: list[tuple[str, float]]) -> None:
    clock, last = FairClock(), dict[str, float]()
    for flow, cost in jobs:
        tag = clock.ticket(flow, cost, 1.0)
        assert tag >= max(clock.now, last.get(flow, 0.0))
        last[flow] = tag + cost
        clock.served(tag / 2)


@given(st.integers(1, 2000), st.integers(1, 20))
def test_a_newcomer_is_next_whatever_another_has_queued(backlog: int, served: int) -> None:
    clock = FairClock()
    waiting = [(clock.ticket("greedy", 1.0, 1.0), n) for n in range(backlog)]
    for _ in range(min(served, backlog - 1)):
        clock.served(heapq.heappop(waiting)[0])
    tag = clock.ticket("other", 1.0, 1.0)
    ahead = sum(other < tag for other, _ in waiting)
    assert ahead == 0, "nothing that waits is before it"


def test_flows_share_in_proportion_to_their_weights_while_both_have_work() -> None:
    clock, waiting, got = FairClock(), list[tuple[float, int, str]](), dict.fromkeys("ab", 0)
    for n in range(400):
        heapq.heappush(waiting, (clock.ticket("a", 1.0, 3.0), n, "a"))
        heapq.heappush(waiting, (clock.ticket("b", 1.0, 1.0), n, "b"))
    for _ in range(200):
        tag, _, flow = heapq.heappop(waiting)
        clock.served(tag)
        got[flow] += 1
    assert abs(got["a"] - 150) <= 1


def test_flows_that_are_behind_virtual_time_are_forgotten() -> None:
    clock = FairClock()
    clock.ticket("a", 5.0, 1.0)
    clock.served(10.0)
    clock.ticket("b", 1.0, 1.0)
    assert set(clock.finish) == {"b"}

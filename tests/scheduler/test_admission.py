"""What can be promised: the verdict on a job, and the number of jobs ahead that decides it."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from scheduler.admission import MANY, Admitted, Capacity, admit, most_ahead

RATES = st.floats(0, 1e4, allow_nan=False)
STEPS = st.floats(0.01, 1e4, allow_nan=False)


@given(
    ahead=st.integers(0, 10**6),
    steps=STEPS,
    rate=RATES,
    backlog=st.floats(0, 1e5, allow_nan=False),
    each=STEPS,
    ttl_s=st.floats(0.1, 1e5, allow_nan=False),
)
@example(ahead=0, steps=1.0, rate=0.0, backlog=0.0, each=1.0, ttl_s=1.0)
@example(ahead=7, steps=1.0, rate=10.0, backlog=0.0, each=1.0, ttl_s=1.0)
@example(ahead=8, steps=0.1, rate=1.0, backlog=0.3, each=0.1, ttl_s=1.5)
def test_the_most_that_may_be_ahead_agrees_with_the_verdict(
    ahead: int, steps: float, rate: float, backlog: float, each: float, ttl_s: float
) -> None:
    capacity = Capacity(rate, backlog, each)
    most = most_ahead(steps, capacity, ttl_s)
    near = [ahead] if most is None else [ahead, most, most + 1, max(0, most - 1)]
    for count in near:
        if 0 <= count <= MANY:
            fits = most is None or count <= most
            assert isinstance(admit(count, steps, capacity, ttl_s), Admitted) is fits, count


def test_without_a_worker_that_tells_its_rate_any_number_may_be_ahead() -> None:
    assert most_ahead(4, Capacity(), 60.0) is None


def test_a_job_that_could_not_end_in_time_alone_may_have_none_ahead() -> None:
    assert most_ahead(100, Capacity(1.0, 0.0, 1.0), 60.0) == -1
    assert most_ahead(48, Capacity(1.0, 0.0, 1.0), 60.0) == 0

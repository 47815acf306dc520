"""What runs next, by its properties."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from contracts.engine import BatchKey
from scheduler.policy import Device, Dispatch, Sample, WaitUntil, decide

KEYS = [BatchKey("m", width, 64, guided=False) for width in (64, 96)]


def device(limit: int = 8, a: float = 0.05, b: float = 0.02) -> Device:
    return Device(lambda _: limit, lambda _, n: a + b * n)


samples = st.builds(
    Sample,
    st.sampled_from(KEYS),
    tag=st.floats(0, 100),
    deadline=st.one_of(st.just(math.inf), st.floats(0, 3)),
    steps_left=st.integers(1, 25),
    steps_taken=st.integers(0, 25),
    group=st.integers(0, 2),
)
queues = st.lists(samples, max_size=30)


@given(queues, st.integers(1, 8), st.floats(0, 2))
def test_nothing_is_held_back_or_mixed_and_bounds_hold(queue: list[Sample], limit: int, now: float) -> None:
    decision = decide(now, queue, device(limit))
    alone = device().seconds(KEYS[0], 1)
    late = {i for i, sample in enumerate(queue) if now + sample.steps_left * alone > sample.deadline}
    assert set(decision.late) == late, "exactly those that no plan could save"
    if isinstance(decision, WaitUntil):
        assert len(late) == len(queue), "the device idles only when there is nothing to run"
        return
    assert 1 <= len(decision.batch) <= limit
    assert len(set(decision.batch)) == len(decision.batch)
    assert not set(decision.batch) & late
    assert len({(queue[i].key, queue[i].group) for i in decision.batch}) == 1


@given(queues, st.integers(1, 8))
def test_everything_runs_to_its_end_and_once_per_step(queue: list[Sample], limit: int) -> None:
    left = [replace(sample, deadline=math.inf) for sample in queue]
    batches = sum(sample.steps_left for sample in left)
    for _ in range(batches):
        if not left:
            break
        decision = decide(0.0, left, device(limit))
        assert isinstance(decision, Dispatch)
        for index in decision.batch:
            one = left[index]
            left[index] = replace(one, steps_left=one.steps_left - 1, steps_taken=one.steps_taken + 1)
        left = [sample for sample in left if sample.steps_left]
    assert not left


@given(queues.filter(bool), st.integers(1, 8))
def test_without_deadlines_the_smallest_tag_always_moves(queue: list[Sample], limit: int) -> None:
    queue = [replace(sample, deadline=math.inf) for sample in queue]
    decision = decide(0.0, queue, device(limit))
    assert isinstance(decision, Dispatch)
    first = min(range(len(queue)), key=lambda i: (queue[i].tag, i))
    assert first in decision.batch


def test_everything_that_fits_together_goes_together() -> None:
    queue = [Sample(KEYS[i % 2], tag=i) for i in range(10)]
    assert decide(0.0, queue, device(8)) == Dispatch((0, 2, 4, 6, 8))


def test_an_endangered_deadline_goes_before_the_fair_order() -> None:
    # Sixteen images are ahead by their tags: two batches of 0.21 s. The last one has only 0.3 s.
    queue = [Sample(KEYS[0], tag=i) for i in range(16)] + [Sample(KEYS[0], tag=99, deadline=0.3)]
    decision = decide(0.0, queue, device(8))
    assert isinstance(decision, Dispatch)
    assert 16 in decision.batch


def test_a_batch_is_no_larger_than_its_most_urgent_image_can_bear() -> None:
    queue = [Sample(KEYS[0], deadline=0.10), *[Sample(KEYS[0], tag=1, deadline=9.0)] * 7]
    decision = decide(0.0, queue, device(8))
    assert isinstance(decision, Dispatch)
    assert 0 in decision.batch
    assert 0.05 + 0.02 * len(decision.batch) <= 0.10


def test_under_overload_one_urgent_image_does_not_cost_a_full_batch() -> None:
    # Alone it would make it; but then the eight behind it, due when a full batch is done, would not.
    queue = [Sample(KEYS[0], deadline=0.08), *[Sample(KEYS[0], tag=1, deadline=0.22)] * 8]
    decision = decide(0.0, queue, device(8))
    assert isinstance(decision, Dispatch)
    assert decision.batch == tuple(range(1, 9))


def test_a_short_job_overtakes_long_ones_and_the_oldest_still_moves() -> None:
    long = [Sample(KEYS[0], tag=i, steps_left=20, steps_taken=5) for i in range(8)]
    decision = decide(0.0, [*long, Sample(KEYS[0], tag=50)], device(8))
    assert isinstance(decision, Dispatch)
    assert 8 in decision.batch
    assert {0, 1, 2, 3} <= set(decision.batch)


@given(
    st.lists(
        st.builds(
            Sample,
            st.sampled_from(KEYS),
            deadline=st.one_of(st.just(math.inf), st.floats(0, 3)),
            steps_left=st.integers(-3, 1),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_an_image_that_should_be_finished_has_one_more_step(queue: list[Sample]) -> None:
    """Whoever miscounts steps must not divide by them."""
    counted = [replace(sample, steps_left=1) for sample in queue]
    assert decide(0.0, queue, device()) == decide(0.0, counted, device())

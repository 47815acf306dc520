"""Limits and recovery, by their properties."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from contracts.engine import BatchKey
from scheduler.limits import PROBE_AFTER, BatchLimits
from scheduler.recovery import Again, Failure, GiveUp, after_failure, bisect_failures


def key(width: int = 64) -> BatchKey:
    return BatchKey("m", width, 64, guided=False)


def test_a_limit_that_was_tried_in_vain_is_the_old_one_again() -> None:
    limits = BatchLimits(8)
    limits.out_of_memory(key(), 8)
    for _ in range(PROBE_AFTER):
        limits.fitted(key(), 4)
    assert limits.limit(key()) == 5
    limits.out_of_memory(key(), 5)
    assert limits.limit(key()) == 4
    # What had been proven is not: there is less memory than before.
    limits.out_of_memory(key(), 4)
    assert limits.limit(key()) == 2


def test_limits_halve_on_out_of_memory_and_are_remembered_per_key() -> None:
    limits = BatchLimits(8)
    limits.out_of_memory(key(64), 8)
    assert limits.limit(key(64)) == 4
    assert limits.limit(key(96)) == 8
    limits.out_of_memory(key(64), 3)
    assert limits.limit(key(64)) == 1
    limits.out_of_memory(key(64), 1)
    assert limits.limit(key(64)) == 1


def test_a_lowered_limit_is_probed_after_many_full_batches() -> None:
    limits = BatchLimits(8)
    limits.out_of_memory(key(), 8)
    for _ in range(PROBE_AFTER * 10):
        limits.fitted(key(), 2)
    assert limits.limit(key()) == 4, "batches below the limit prove nothing"
    for _ in range(PROBE_AFTER):
        limits.fitted(key(), 4)
    assert limits.limit(key()) == 5
    for _ in range(PROBE_AFTER * 20):
        limits.fitted(key(), limits.limit(key()))
    assert limits.limit(key()) == 8, "never above the configured limit"


@given(st.integers(1, 16), st.data())
def test_bisection_finds_the_one_bad_image(size: int, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, size - 1))
    numbers, runs = itertools.count(1), 0
    group, given_up, done = dict.fromkeys(range(size), 0), set[int](), set[int]()
    while left := [i for i in range(size) if i not in given_up | done]:
        batch = [i for i in left if group[i] == group[left[0]]]
        runs += 1
        if bad not in batch:
            done |= set(batch)
            continue
        verdicts = after_failure(
            Failure.FAULT, [group[i] for i in batch], [0] * len(batch), lambda: next(numbers)
        )
        for i, verdict in zip(batch, verdicts, strict=True):
            if isinstance(verdict, GiveUp):
                given_up.add(i)
            else:
                group[i] = verdict.group
    assert given_up == {bad}
    assert runs <= 2 * size.bit_length() + 1


def test_after_a_crash_every_image_runs_alone_and_the_culprit_is_given_up_once_it_crashes_alone() -> None:
    numbers = itertools.count(1)
    verdicts = after_failure(Failure.CRASH, [0, 0, 0], [0, 0, 0], lambda: next(numbers))
    assert verdicts == [Again(1), Again(2), Again(3)]
    assert after_failure(Failure.CRASH, [1], [1], lambda: next(numbers)) == [GiveUp()]
    assert after_failure(Failure.CRASH, [0], [0], lambda: next(numbers)) == [Again(4)], (
        "alone, but the first time"
    )


def test_out_of_memory_blames_the_batch_not_the_images() -> None:
    assert after_failure(Failure.OUT_OF_MEMORY, [0, 0], [0, 0], int) == [Again(0), Again(0)]
    assert after_failure(Failure.OUT_OF_MEMORY, [0], [0], int) == [GiveUp()]


@given(st.integers(1, 40), st.data())
def test_those_for_whom_something_fails_are_found(size: int, data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.integers(0, size - 1)))
    assert bisect_failures(range(size), lambda items: bool(bad & set(items))) == sorted(bad)


def test_a_company_that_fails_only_together_is_blamed_together() -> None:
    assert bisect_failures([1, 2, 3, 4], lambda items: {1, 4} <= set(items)) == [1, 2, 3, 4]
    assert bisect_failures([1, 2, 3, 4], lambda items: {3, 4} <= set(items)) == [3, 4]
    assert bisect_failures([1, 2], lambda _: False) == []
    assert bisect_failures([], lambda _: True) == []

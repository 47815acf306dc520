"""What a worker brings for its next batch, and when."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from contracts.engine import BatchKey
from scheduler.prefetch import (
    BATCHES_HELD,
    BATCHES_WAITING,
    DEVIATIONS,
    LEAD_S,
    LEAD_SHARE,
    FetchLatency,
    QueuedImage,
    slots_to_fetch,
)

A, B = (BatchKey("m", width, 64, guided=False) for width in (64, 96))
hands = st.lists(
    st.builds(QueuedImage, st.sampled_from([A, B]), st.floats(0, 9), st.booleans()),
    max_size=BATCHES_HELD * 8,
)


def waiting(*keys: BatchKey) -> list[QueuedImage]:
    return [QueuedImage(key, float(number), begun=False) for number, key in enumerate(keys)]


def test_with_one_key_a_single_batch_waits() -> None:
    assert slots_to_fetch([], 0, 8) == 8
    assert slots_to_fetch([], 8, 8) == 8, "the present batch is as good as over"
    assert slots_to_fetch(waiting(*[A] * 3), 8, 8) == 5
    assert slots_to_fetch(waiting(*[A] * 8), 8, 8) == 0
    assert slots_to_fetch([QueuedImage(A, 0.0, begun=True)] * 8, 0, 8) == 8, (
        "long jobs do not shut out those that come"
    )


def test_with_several_keys_a_full_batch_of_the_one_that_leads_is_gathered() -> None:
    assert slots_to_fetch(waiting(A, B, A, B), 8, 8) == 12, "half of what comes is of the key that leads"
    assert slots_to_fetch(waiting(*[A] * 7, B), 8, 8) == 2
    assert slots_to_fetch(waiting(A, *[B] * 7), 8, 8) == 8, "but never more than the bound"
    assert slots_to_fetch(waiting(*[A, B] * 8), 8, 8) == 0, "nor beyond it"


def test_images_in_the_making_may_lead_the_next_batch() -> None:
    hand = [QueuedImage(A, 0.0, begun=True), *waiting(*[B] * 8)]
    assert slots_to_fetch(hand, 0, 8) == 8, "of the key that leads none waits yet"


@given(hands, st.integers(0, 8))
def test_no_bound_is_exceeded(hand: list[QueuedImage], ending: int) -> None:
    room = slots_to_fetch(hand, ending, 8)
    waits = sum(not image.begun for image in hand)
    assert room >= 0
    assert room == 0 or waits + room <= BATCHES_WAITING * 8
    assert room == 0 or len(hand) + ending + room <= BATCHES_HELD * 8


@given(st.integers(0, 8), st.integers(0, 8), st.integers(0, 8))
def test_one_key_never_has_more_than_a_batch_waiting(waits: int, begun: int, ending: int) -> None:
    hand = [QueuedImage(A, 0.0, begun=True)] * begun + waiting(*[A] * waits)
    assert waits + slots_to_fetch(hand, ending, 8) == 8


def test_the_lead_is_as_long_as_the_way_to_the_store() -> None:
    near, far = FetchLatency(), FetchLatency()
    for _ in range(200):
        near.observe(0.002)
        far.observe(0.050)
    assert near.seconds(1.0) == LEAD_S + LEAD_SHARE
    assert math.isclose(far.seconds(1.0), 0.050 + LEAD_SHARE, rel_tol=0.01)
    for number in range(200):
        far.observe(0.020 if number % 2 else 0.080)
    spread = far.seconds(1.0) - 0.050 - LEAD_SHARE
    assert 0.9 * DEVIATIONS * 0.030 < spread < 1.1 * DEVIATIONS * 0.030, "and longer where it varies"


def test_one_journey_that_waited_for_something_else_hardly_moves_the_lead_and_many_do() -> None:
    lead = FetchLatency()
    for _ in range(100):
        lead.observe(0.002)
    lead.observe(30.0)
    assert lead.seconds(0.0) < 0.03
    for _ in range(200):
        lead.observe(1.0)
    assert lead.seconds(0.0) > 0.9

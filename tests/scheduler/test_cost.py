"""The cost model and what is promised on it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.models import WorkerInfo
from scheduler.admission import HEADROOM, Admitted, Capacity, Refused, admit, capacity_of, eta_s
from scheduler.cost import DOUBTED_AFTER, MAX_KEYS, CostModel
from tests.scheduler.test_scheduler import key

ANY = st.floats(0.001, 10, allow_nan=False)


def trained(a: float, b: float, noise: float, outliers: float, batches: int = 400) -> CostModel:
    rng, model = random.Random(7), CostModel()
    for _ in range(batches):
        images = rng.randint(1, 8)
        seconds = (a + b * images) * rng.gauss(1, noise)
        model.ran(key(), images, seconds * 20 if rng.random() < outliers else max(seconds, 1e-6))
    return model


@given(ANY, ANY)
def test_a_line_is_found(a: float, b: float) -> None:
    model = trained(a, b, noise=0.0, outliers=0.0, batches=40)
    for images in (1, 4, 8):
        assert model.seconds(key(), images) == pytest.approx(a + b * images, rel=0.05)


def test_noise_and_outliers_do_little() -> None:
    model = trained(0.05, 0.04, noise=0.05, outliers=0.03)
    for images in (1, 8):
        assert model.seconds(key(), images) == pytest.approx(0.05 + 0.04 * images, rel=0.15)


def test_it_follows_a_device_that_slows_down() -> None:
    model = trained(0.05, 0.04, noise=0.02, outliers=0.0)
    for round_ in range(600):
        model.ran(key(), 1 + round_ % 8, 2 * (0.05 + 0.04 * (1 + round_ % 8)))
    assert model.seconds(key(), 8) == pytest.approx(2 * (0.05 + 0.32), rel=0.1)


@given(st.lists(st.tuples(st.integers(1, 8), ANY), min_size=1, max_size=50))
def test_predictions_are_positive_and_grow_with_the_batch(runs: list[tuple[int, float]]) -> None:
    model = CostModel()
    for images, seconds in runs:
        model.ran(key(), images, seconds)
    predictions = [model.seconds(key(), images) for images in range(1, 9)]
    assert all(each is not None and each > 0 for each in predictions)
    assert predictions == sorted(predictions, key=lambda each: each or 0.0)
    assert model.steps_per_s(8) > 0


def test_nothing_is_known_before_the_first_batch() -> None:
    assert CostModel().seconds(key(), 1) is None
    assert CostModel().steps_per_s(8) == 0.0


def test_the_rate_is_that_of_full_batches() -> None:
    model = trained(0.1, 0.01, noise=0.0, outliers=0.0)
    assert model.steps_per_s(8) == pytest.approx(8 / 0.18, rel=0.05)


def test_a_key_that_no_longer_runs_leaves_the_rate() -> None:
    model = CostModel()
    for _ in range(200):
        model.ran(key(width=1024), 1, 1.0)
    for _ in range(400):
        model.ran(key(width=512), 1, 0.1)
    assert model.steps_per_s(1) == pytest.approx(10.0, rel=0.1)
    assert CostModel.load(model.dump()).steps_per_s(1) == model.steps_per_s(1)


def test_one_batch_size_alone_promises_no_gain() -> None:
    model = CostModel()
    model.ran(key(), 1, 0.1)
    assert model.steps_per_s(8) == pytest.approx(10.0)


def test_what_was_learnt_survives_a_restart() -> None:
    model = trained(0.05, 0.04, noise=0.02, outliers=0.0)
    model.ran(key(), 4, 0.2, memory_bytes=4_000)
    again = CostModel.load(model.dump())
    assert again.seconds(key(), 5) == model.seconds(key(), 5)
    assert again.memory_bytes(key(), 4) == pytest.approx(4_000)
    with pytest.raises(ValueError, match="cost model"):
        CostModel.load('{"seconds": [[{"no": "key"}, {}]], "memory": []}')


@given(st.integers(0, 10**6), st.integers(1, 100), st.floats(0, 1000), st.floats(0, 1000), st.floats(1, 3600))
def test_what_cannot_be_done_in_time_is_refused_and_nothing_else(
    ahead: int, steps: int, rate: float, backlog: float, ttl_s: float
) -> None:
    verdict = admit(ahead, steps, Capacity(rate, backlog, 1.0), ttl_s)
    if isinstance(verdict, Refused):
        assert rate > 0
        assert verdict.wait_s > HEADROOM * ttl_s
        assert 1.0 <= verdict.retry_after_s <= 60.0
    else:
        assert isinstance(verdict, Admitted)
        assert verdict.eta_s is None or verdict.eta_s <= HEADROOM * ttl_s


def test_an_empty_queue_is_open_even_when_nothing_is_known() -> None:
    assert admit(0, 1, Capacity(), 300) == Admitted(None)
    assert admit(10_000, 1, Capacity(), 300) == Admitted(None)
    assert isinstance(admit(10_000, 1, Capacity(10.0), 300), Refused)


def test_the_capacity_of_a_model_is_that_of_its_workers_together() -> None:
    workers = [
        WorkerInfo(id="a", model="m", started_at=0, steps_per_s=3, backlog_steps=4, steps_per_job=1),
        WorkerInfo(id="b", model="m", started_at=0, steps_per_s=5, backlog_steps=0, steps_per_job=3),
    ]
    assert capacity_of(workers) == Capacity(8, 4, 2)
    assert eta_s(10, 4, Capacity(8, 4, 2)) == pytest.approx((4 + 20 + 4) / 8)


def test_a_size_never_seen_is_believed_at_once() -> None:
    model = CostModel()
    for _ in range(100):
        model.ran(key(), 1, 0.075)
    assert model.seconds(key(), 8) == pytest.approx(0.6), "one size tells nothing of the fixed part"
    model.ran(key(), 8, 0.180)
    assert model.seconds(key(), 8) == pytest.approx(0.180, rel=0.05)


def test_sizes_are_the_clients_choice_and_their_number_is_bounded() -> None:
    model = CostModel()
    for width in range(128, 128 + 8 * 2 * MAX_KEYS, 8):
        model.ran(key(), 1, 0.5, 1 << 20)
        model.ran(key(width=width), 1, 1.0, 2 << 20)
    assert len(CostModel.load(model.dump()).copy()._fits) == len(model._memory) == MAX_KEYS
    assert model.seconds(key(), 1) == pytest.approx(0.5), "what still runs is not forgotten"
    assert model.seconds(key(width=128), 1) is None


def test_a_copy_is_no_longer_changed() -> None:
    model = CostModel()
    model.ran(key(), 1, 1.0)
    copy = model.copy()
    model.ran(key(), 1, 5.0)
    model.ran(key(width=128), 1, 5.0)
    assert copy.seconds(key(), 1) == 1.0
    assert copy.seconds(key(width=128), 1) is None


def test_a_slow_first_batch_is_not_believed_for_ever() -> None:
    """No image has the time that it took, so that none would ever run and show that it takes less."""
    model = CostModel()
    model.ran(key(), 1, 30.0)
    for _ in range(DOUBTED_AFTER):
        assert model.seconds(key(), 1) == pytest.approx(30.0)
        model.gave_up(key())
    assert model.seconds(key(), 1) is None
    model.ran(key(), 1, 0.5)
    assert model.seconds(key(), 1) == pytest.approx(0.5)


def test_a_doubt_that_a_batch_disproves_changes_nothing() -> None:
    model, same = trained(1.0, 0.5, 0.0, 0.0), trained(1.0, 0.5, 0.0, 0.0)
    for _ in range(DOUBTED_AFTER):
        model.gave_up(key())
    model.ran(key(), 4, 3.0)
    same.ran(key(), 4, 3.0)
    assert model.dump() == same.dump()


def test_batches_between_leave_no_doubt() -> None:
    model = trained(1.0, 0.5, 0.0, 0.0)
    for _ in range(5 * DOUBTED_AFTER):
        model.gave_up(key())
        model.ran(key(), 1, 1.5)
    assert model.seconds(key(), 1) == pytest.approx(1.5)
    unknown = replace(key(), width=4096)
    model.gave_up(unknown)
    assert model.seconds(unknown, 1) is None

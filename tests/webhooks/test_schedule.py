"""When to call again: the schedule of three days, and manners towards slow receivers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.settings import WebhookSettings
from contracts.webhooks import DeliveryStatus
from duties.backoff import JITTER, retry_after_s
from webhooks.schedule import HORIZON_S, Pacer, Verdict, after

DELAYS_S = WebhookSettings().retry_delays_s


def verdict(
    attempt: int = 1, status_code: int | None = 500, *, chance: float = 0.5, **rest: object
) -> Verdict:
    given = {"age_s": 0.0, "delays_s": DELAYS_S, "chance": chance, **rest}
    return after(attempt, status_code, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
def test_2xx_is_delivered(code: int) -> None:
    assert verdict(status_code=code).status is DeliveryStatus.DELIVERED


@pytest.mark.parametrize("code", [None, 100, 300, 301, 302, 307, 308, 400, 401, 404, 429, 500, 503])
def test_anything_else_is_tried_again(code: int | None) -> None:
    assert verdict(status_code=code) == Verdict(DeliveryStatus.PENDING, 5.0)


def test_410_disables_and_a_refused_address_fails_at_once() -> None:
    assert verdict(status_code=410) == Verdict(DeliveryStatus.DISABLED)
    assert verdict(status_code=None, refused=True) == Verdict(DeliveryStatus.FAILED)


def test_the_delays_fill_three_days_and_have_jitter() -> None:
    assert 0.95 * HORIZON_S <= sum(DELAYS_S) <= HORIZON_S == 3 * 86_400
    assert JITTER > 0


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=20, max_size=20))
def test_eleven_attempts_in_three_days(chances: list[float]) -> None:
    age_s, attempt = 0.0, 1
    while True:
        found = verdict(attempt, age_s=age_s, chance=chances[attempt])
        if found.next_in_s is None:
            break
        assert 0.9 * DELAYS_S[attempt - 1] <= found.next_in_s <= 1.1 * DELAYS_S[attempt - 1]
        age_s, attempt = age_s + found.next_in_s, attempt + 1
    assert found.status is DeliveryStatus.FAILED
    assert attempt in (10, 11)
    assert age_s <= HORIZON_S
    assert age_s >= 0.6 * HORIZON_S


def test_a_receiver_may_ask_for_more_time() -> None:
    assert verdict(status_code=503, retry_after_s=60.0).next_in_s == 60.0
    assert verdict(5, retry_after_s=60.0).next_in_s == 7200.0
    assert verdict(retry_after_s=1e9).next_in_s == 86_400.0
    assert verdict(age_s=HORIZON_S - 1.0).status is DeliveryStatus.FAILED


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        ("-7", None),
        ("9" * 50, 86_400.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header) == seconds


def test_a_slow_receiver_gets_its_share_and_the_others_theirs() -> None:
    pacer = Pacer(4)
    entered = [pacer.enter("slow", 0.0) for _ in range(1000)]
    assert entered[:4] == [None] * 4
    waits = [wait for wait in entered if wait is not None]
    assert len(waits) == 996
    assert waits == sorted(waits), "one time each, in order"
    assert all(pacer.enter("other", 0.0) is None for _ in range(4))
    pacer.leave("slow", 10.0)
    assert pacer.enter("slow", 0.1) is None


def backlog_s(took_s: float) -> float:
    """When the last of twenty is told to come again, after the receiver has shown how slow it is."""
    pacer = Pacer(2)
    pacer.enter("r", 0.0)
    for _ in range(50):
        assert pacer.enter("r", 0.0) is None
        pacer.leave("r", took_s)
    assert pacer.enter("r", 0.0) is None
    return max(pacer.enter("r", 0.0) or 0.0 for _ in range(20))


def test_the_slower_a_receiver_the_farther_apart_its_calls() -> None:
    assert backlog_s(0.02) == pytest.approx(20 * 0.02 / 2, rel=0.1)
    assert backlog_s(10.0) == pytest.approx(20 * 10.0 / 2, rel=0.1)


def test_a_pacer_forgets_who_is_idle() -> None:
    pacer = Pacer(2)
    for number in range(100):
        assert pacer.enter(f"r{number}", 0.0) is None
        pacer.leave(f"r{number}", 1.0)
    assert pacer._receivers == {}

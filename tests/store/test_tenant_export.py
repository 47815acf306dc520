"""What a tenant is handed out of its own data."""

from __future__ import annotations

from store.tenant_export import reservation_shown


def test_a_reservation_does_not_say_what_the_policy_found() -> None:
    finding = {"state": "in_review", "findings": [{"source": "secret list", "score": 0.9}]}
    reservation = {
        "tenant": "acme",
        "new": {"id": "job_1", "request": {"prompt": "a", "moderation": finding}},
    }
    assert reservation_shown(reservation) == {
        "tenant": "acme",
        "new": {"id": "job_1", "request": {"prompt": "a"}},
    }


def test_a_reservation_of_a_finished_job_is_shown_as_it_is() -> None:
    for reservation in ({"tenant": "acme", "job_id": "job_1"}, None, {"new": None}):
        assert reservation_shown(reservation) == reservation

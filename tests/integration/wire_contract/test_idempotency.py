"""The `Idempotency-Key` of `POST /v1/jobs`."""

from __future__ import annotations

import pytest
import redis

from tests.integration.wire_contract.site import Site, fresh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_an_idempotency_key_with_the_same_body_replays_the_first_answer(site: Site) -> None:
    body, headers = fresh(seed="random"), {"Idempotency-Key": "order-1"}
    first = site.alice.http.post("/v1/jobs", json=body, headers=headers)
    again = site.alice.http.post("/v1/jobs", json=dict(reversed(body.items())), headers=headers)
    site.alice.ended(first.json())
    ended = site.alice.http.post("/v1/jobs", json=body, headers=headers)
    for replay in (again, ended):
        assert (replay.status_code, replay.json()["id"]) == (202, first.json()["id"])
        assert replay.headers["location"] == first.headers["location"]
        assert replay.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    other = site.bob.http.post("/v1/jobs", json=body, headers=headers)
    assert other.json()["id"] != first.json()["id"], "keys are the tenant's own"


def test_an_idempotency_key_replays_a_200_as_200(site: Site) -> None:
    body = fresh()
    site.alice.ended(site.alice.submit(**body))
    first, again = (
        site.alice.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "order-2"}) for _ in range(2)
    )
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()


def test_an_idempotency_key_holds_for_a_day(site: Site) -> None:
    site.alice.http.post("/v1/jobs", json=fresh(), headers={"Idempotency-Key": "order-4"})
    with redis.Redis.from_url(site.admin.redis.url) as client:
        lives = [client.ttl(name) for name in client.scan_iter("darkroom:idempotency:*")]
    assert lives
    assert all(86_000 < life <= 86_400 for life in lives)

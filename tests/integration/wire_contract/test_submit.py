"""`POST /v1/jobs`."""

from __future__ import annotations

import time

import pytest

from tests.integration.wire_contract.site import TURBO, Site, fresh, seconds

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_submit_is_202_with_location_and_retry_after(site: Site) -> None:
    response = site.alice.http.post("/v1/jobs", json=fresh())
    assert response.status_code == 202
    job = response.json()
    assert job["status"] in ("queued", "running")
    assert response.headers["location"] == job["urls"]["self"] == f"/v1/jobs/{job['id']}"
    assert seconds(response) >= 1
    assert site.alice.ended(job)["status"] == "succeeded"


def test_submit_is_200_when_the_cache_has_the_answer(site: Site) -> None:
    body = fresh()
    first = site.alice.ended(site.alice.submit(**body))
    response = site.alice.http.post("/v1/jobs", json=body)
    assert response.status_code == 200
    job = response.json()
    assert (job["status"], job["cache"]) == ("succeeded", "hit")
    assert job["id"] != first["id"]
    assert job["images"] == first["images"]
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert "retry-after" not in response.headers
    other = site.bob.http.post("/v1/jobs", json=body)
    assert (other.status_code, other.json()["cache"]) == (202, "miss"), "another tenant's cache is its own"


def test_prefer_wait_holds_a_submit_for_the_result(site: Site) -> None:
    response = site.alice.http.post("/v1/jobs", json=fresh(), headers={"Prefer": "wait=30"})
    assert (response.status_code, response.json()["status"]) == (200, "succeeded")
    assert response.headers["preference-applied"] == "wait=30"


def test_prefer_wait_is_cut_to_sixty_seconds(site: Site) -> None:
    response = site.alice.http.post("/v1/jobs", json=fresh(), headers={"Prefer": "wait=3600"})
    assert (response.status_code, response.headers["preference-applied"]) == (200, "wait=60")


def test_prefer_wait_that_ends_too_early_leaves_a_job_to_poll(site: Site) -> None:
    with site.held(TURBO):
        begun = time.monotonic()
        response = site.alice.http.post("/v1/jobs", json=fresh(), headers={"Prefer": "wait=1"})
        assert time.monotonic() - begun >= 1.0
    assert (response.status_code, response.json()["status"]) == (202, "queued")
    assert seconds(response) >= 1
    assert response.headers["location"]

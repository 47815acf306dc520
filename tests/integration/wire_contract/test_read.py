"""`GET /v1/jobs/{id}`, and the answers for jobs that are unknown or gone."""

from __future__ import annotations

import time

import pytest

from contracts.ids import new_job_id
from tests.integration.wire_contract.site import TURBO, Site, fresh, is_error, seconds

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

OF_A_JOB = [("GET", ""), ("POST", "/cancel"), ("GET", "/events"), ("GET", "/webhook")]


def test_prefer_wait_polls_for_long(site: Site) -> None:
    with site.held(TURBO):
        job = site.alice.submit(**fresh())
        pending = site.alice.http.get(job["urls"]["self"], headers={"Prefer": "wait=1"})
        assert (pending.status_code, pending.json()["status"]) == (200, "queued")
        assert seconds(pending) >= 1
    response = site.alice.http.get(job["urls"]["self"], headers={"Prefer": "wait=30"})
    assert (response.status_code, response.json()["status"]) == (200, "succeeded")
    assert response.headers["preference-applied"] == "wait=30"
    assert "retry-after" not in response.headers


@pytest.mark.parametrize(("method", "path"), OF_A_JOB)
def test_an_unknown_job_and_another_tenants_are_404_and_look_alike(
    site: Site, method: str, path: str
) -> None:
    theirs = site.bob.ended(site.bob.submit(**fresh()))["id"]
    answers = [
        site.alice.http.request(method, f"/v1/jobs/{job_id}{path}")
        for job_id in (theirs, new_job_id(time.time(), "0"), "nonsense")
    ]
    messages = {is_error(answer, 404, "job_not_found")["message"] for answer in answers}
    assert len(messages) == 1


@pytest.mark.parametrize(("method", "path"), OF_A_JOB)
def test_a_job_that_expired_from_the_store_is_410(site: Site, method: str, path: str) -> None:
    old = new_job_id(time.time() - 30 * 86_400, "7")
    is_error(site.alice.http.request(method, f"/v1/jobs/{old}{path}"), 410, "job_gone")


def test_a_record_that_was_kept_long_enough_is_410_too(site: Site) -> None:
    body = fresh()
    site.alice.ended(site.alice.submit(**body))
    job = site.forgetful.post("/v1/jobs", json=body).json()
    assert (job["status"], job["cache"]) == ("succeeded", "hit")
    until = time.monotonic() + 20
    while (response := site.forgetful.get(job["urls"]["self"])).status_code == 200:
        assert time.monotonic() < until
        time.sleep(0.1)
    is_error(response, 410, "job_gone")

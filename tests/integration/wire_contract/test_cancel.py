"""`POST /v1/jobs/{id}/cancel`."""

from __future__ import annotations

import pytest

from tests.integration.wire_contract.site import BASE, LONG, Site, following, fresh, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_cancel_is_idempotent_and_takes_effect_before_the_batch(site: Site) -> None:
    wait_until(lambda: not site.of_worker("darkroom_worker_jobs", BASE), site)
    before = site.of_worker("darkroom_steps_total", BASE)
    with site.held(BASE):
        jobs = [site.alice.submit(**fresh(model=BASE, num_inference_steps=3)) for _ in range(3)]
        first, doomed, last = jobs
        canceled = site.alice.http.post(doomed["urls"]["cancel"])
        assert (canceled.status_code, canceled.json()["status"]) == (200, "canceled")
        again = site.alice.http.post(doomed["urls"]["cancel"])
        assert (again.status_code, again.json()) == (200, canceled.json())
    for job in (first, last):
        assert site.alice.ended(job)["status"] == "succeeded"
    wait_until(lambda: not site.of_worker("darkroom_worker_jobs", BASE), site)
    assert site.of_worker("darkroom_steps_total", BASE) - before == 2 * 3
    assert site.alice.http.get(doomed["urls"]["self"]).json() == canceled.json()


def test_cancel_takes_effect_at_a_step_boundary(site: Site) -> None:
    before = site.of_worker("darkroom_steps_total", BASE)
    job = site.alice.submit(**fresh(**LONG))
    with following(site.alice, job) as stream:
        stream.until("progress")
        canceled = site.alice.http.post(job["urls"]["cancel"])
        assert (canceled.status_code, canceled.json()["status"]) == (200, "canceled")
        stream.to_end()
    assert stream.seen[-1][0] == "status"
    assert stream.seen[-1][1]["status"] == "canceled"
    wait_until(lambda: not site.of_worker("darkroom_worker_jobs", BASE), site)
    done = site.of_worker("darkroom_steps_total", BASE) - before
    assert 0 < done < 400, "it stopped between two steps, not after the last"
    final = site.alice.http.get(job["urls"]["self"]).json()
    assert (final["status"], final["images"]) == ("canceled", [])


def test_cancel_leaves_an_ended_job_as_it_is(site: Site) -> None:
    job = site.alice.ended(site.alice.submit(**fresh()))
    response = site.alice.http.post(job["urls"]["cancel"])
    assert (response.status_code, response.json()) == (200, job)

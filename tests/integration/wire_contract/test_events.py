"""`GET /v1/jobs/{id}/events`."""

from __future__ import annotations

import itertools
import signal

import pytest

from tests.integration.wire_contract.site import BASE, JOB, Site, following, fresh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_events_are_a_snapshot_then_status_progress_output_and_the_end(site: Site) -> None:
    with site.held(BASE):
        job = site.alice.submit(**fresh(model=BASE, num_inference_steps=30))
        with following(site.alice, job) as stream:
            assert stream.next_named() == "snapshot"
            assert set(stream.seen[0][1]) >= JOB
            assert stream.seen[0][1]["status"] == "queued"
            site.admin.kill(BASE, signal.SIGCONT)
            stream.to_end()
    names = [name for name, _ in stream.seen]
    assert set(names) == {"snapshot", "status", "progress", "output"}
    assert names[-2:] == ["output", "status"]
    assert names.count("output") == 1
    statuses = [data["status"] for name, data in stream.seen if name == "status"]
    assert [status for status, _ in itertools.groupby(statuses) if status != "queued"] == [
        "running",
        "succeeded",
    ]
    steps = [data["step"] for name, data in stream.seen if name == "progress"]
    assert steps == sorted(steps)
    assert {data["steps"] for name, data in stream.seen if name == "progress"} == {30}
    output = next(data for name, data in stream.seen if name == "output")
    assert output["images"] == site.alice.http.get(job["urls"]["self"]).json()["images"]


def test_last_event_id_resumes_without_a_snapshot_and_204_says_that_all_was_told(site: Site) -> None:
    job = site.alice.submit(**fresh(model=BASE, num_inference_steps=30))
    with following(site.alice, job) as broken:
        broken.until("progress")
    with following(site.alice, job, broken.last_id) as resumed:
        resumed.to_end()
    names = [name for name, _ in resumed.seen]
    assert "snapshot" not in names
    assert names[-2:] == ["output", "status"]
    assert resumed.seen[-1][1]["status"] == "succeeded"
    done = site.alice.http.get(job["urls"]["events"], headers={"Last-Event-ID": str(resumed.last_id)})
    assert done.status_code == 204


def test_events_of_an_ended_job_tell_all_and_close(site: Site) -> None:
    job = site.alice.ended(site.alice.submit(**fresh()))
    with following(site.alice, job) as stream:
        stream.to_end()
    assert [name for name, _ in stream.seen] == ["snapshot", "output", "status"]
    assert stream.seen[0][1] == job

"""The job: its fields in every state, its place in the queue, its warnings."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.integration.wire_contract.site import FAKE, JOB, LONG, TURBO, Site, fresh, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_a_job_has_every_field_in_every_state(site: Site) -> None:
    """`failed` and `expired` by the stand-in engine: the models of ours do not fail."""
    body = fresh()
    with site.held(TURBO):
        queued, joined = site.alice.submit(**body), site.alice.submit(**body)
    canceled = site.alice.submit(**fresh(**LONG))
    wait_until(lambda: site.alice.http.get(canceled["urls"]["self"]).json()["status"] == "running", site)
    running = site.alice.http.get(canceled["urls"]["self"]).json()
    canceled = site.alice.http.post(canceled["urls"]["cancel"]).json()
    succeeded, shared = site.alice.ended(queued), site.alice.ended(joined)
    hit = site.alice.submit(**body)
    failed = site.alice.ended(site.alice.submit(**fresh(model=FAKE, prompt="fault:raise")))
    with site.held(FAKE):
        expired = site.alice.ended(site.alice.submit(**fresh(model=FAKE, timeout_seconds=1.0)))

    jobs = [queued, running, succeeded, shared, hit, failed, canceled, expired]
    assert [job["status"] for job in jobs] == [
        "queued",
        "running",
        *["succeeded"] * 3,
        "failed",
        "canceled",
        "expired",
    ]
    for job in jobs:
        assert set(job) >= JOB
        self_url = f"/v1/jobs/{job['id']}"
        urls = {"self": self_url, "events": f"{self_url}/events", "cancel": f"{self_url}/cancel"}
        assert urls.items() <= job["urls"].items()
        assert (job["finished_at"] is None) == (job["status"] in ("queued", "running"))
        assert (job["error"] is None) == (job["status"] != "failed")
        assert bool(job["images"]) == (job["status"] == "succeeded")
        assert (job["queue_position"] is None) == (job["status"] != "queued")
        assert job["created_at"] <= (job["started_at"] or job["created_at"]) <= time.time()
    assert running["started_at"] is not None
    assert [job["cache"] for job in (succeeded, shared, hit)] == ["miss", "joined", "hit"]
    assert succeeded["images"] == shared["images"] == hit["images"]
    assert set(succeeded["images"][0]) == {"url", "width", "height", "seed", "content_type"}
    assert set(succeeded["timings"]) == {"queued_ms", "batch_ms", "encode_ms", "batch_size"}
    assert succeeded["request"].items() >= {**body, "model": TURBO, "num_images": 1}.items()
    assert succeeded["warnings"] == []
    assert failed["error"]["code"] == "engine_fault"


def test_queue_position_counts_jobs_ahead(site: Site) -> None:
    with site.held(TURBO):
        jobs = [site.alice.submit(**fresh()) for _ in range(3)]
        assert [job["queue_position"] for job in jobs] == [0, 1, 2]
        assert jobs[0]["eta_seconds"] <= jobs[1]["eta_seconds"] <= jobs[2]["eta_seconds"]
        site.alice.http.post(jobs[1]["urls"]["cancel"])
        assert site.alice.http.get(jobs[2]["urls"]["self"]).json()["queue_position"] == 1
    for job in (jobs[0], jobs[2]):
        assert site.alice.ended(job)["queue_position"] is None


def test_truncation_at_the_models_token_limit_is_a_warning(site: Site) -> None:
    """77 is CLIP's; every model tells its own."""
    models = {model["id"]: model for model in site.alice.http.get("/v1/models").json()["data"]}
    limit = models[TURBO]["max_prompt_tokens"]
    words = limit - 2  # beside the marks of begin and end
    cut, whole = (
        site.alice.ended(site.alice.submit(**fresh(prompt=" ".join(["apple"] * count))))
        for count in (words + 1, words)
    )
    assert cut["status"] == "succeeded"
    (warning,) = cut["warnings"]
    assert f"{limit + 1} tokens" in warning
    assert f"first {limit}" in warning
    assert whole["warnings"] == []
    hit = site.alice.submit(**cut_again(cut))
    assert (hit["cache"], hit["warnings"]) == ("hit", [warning])


def cut_again(job: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": job["request"]["prompt"], "seed": job["request"]["seed"]}

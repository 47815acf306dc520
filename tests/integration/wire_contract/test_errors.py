"""Errors have one shape, whatever the status code."""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx
import pytest

from tests.integration.wire_contract.site import SEEDS, TURBO, Site, fresh, is_error, seconds

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.parametrize(
    ("status", "code", "content", "content_type"),
    [
        (400, "malformed_body", b"{", "application/json"),
        (413, "payload_too_large", b'{"prompt": "' + b"a" * 70_000 + b'"}', "application/json"),
        (415, "unsupported_media_type", b"prompt=a", "application/x-www-form-urlencoded"),
        (415, "unsupported_media_type", b"{}", None),
    ],
)
def test_400_413_415_for_bodies(
    site: Site, status: int, code: str, content: bytes, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = site.alice.http.post("/v1/jobs", content=content, headers=headers)
    is_error(response, status, code)
    assert "connection" not in response.headers, "its body was read to the end: the connection is good"


def test_409_for_a_job_that_is_canceled_while_its_pictures_are_waited_for(site: Site) -> None:
    seed = next(SEEDS)
    answers: list[httpx.Response] = []
    with site.held(TURBO):
        body = {"prompt": "an octopus", "seed": seed}
        asking = threading.Thread(
            target=lambda: answers.append(site.alice.http.post("/v1/images/generations", json=body))
        )
        asking.start()
        found: list[dict[str, Any]] = []
        until = time.monotonic() + 30
        while not found:
            assert time.monotonic() < until
            listed = site.alice.http.get("/v1/jobs").json()["data"]
            found = [
                job
                for job in listed
                if job["request"]["seed"] == seed and job["request"]["prompt"] == body["prompt"]
            ]
        site.alice.http.post(found[0]["urls"]["cancel"])
        asking.join(30)
    error = is_error(answers[0], 409, "job_canceled")
    assert error["details"] == {"job_id": found[0]["id"]}


def test_422_names_the_field(site: Site) -> None:
    response = site.alice.http.post("/v1/jobs", json=fresh(width=63))
    error = is_error(response, 422, "invalid_request", "width")
    assert "width" in error["message"]
    assert error["details"]["faults"][0] == {"param": "width", "message": error["message"]}


def test_429_with_retry_after(site: Site) -> None:
    headers = site.key(tenant="dave", requests_per_minute=1, burst=1)
    first, second = (httpx.post(f"{site.admin.url}/v1/jobs", json=fresh(), headers=headers) for _ in range(2))
    assert first.status_code == 202
    error = is_error(second, 429, "quota_exceeded")
    assert error["details"]["limit"] == "requests_per_minute"
    assert seconds(second) <= 60


def test_503_with_retry_after_where_the_broker_is_away_but_hits_are_served(site: Site) -> None:
    body = fresh()
    site.alice.ended(site.alice.submit(**body))
    with site.held(
        TURBO
    ):  # the other API would publish it from the outbox, and a worker be quicker than the refusal
        refused = site.cut_off.post("/v1/jobs", json=fresh())
    is_error(refused, 503, "broker_unavailable")
    assert seconds(refused) >= 1
    unready = site.cut_off.get("/readyz")
    error = is_error(unready, 503, "unavailable")
    assert error["details"]["checks"]["store"] == "ok"
    assert error["details"]["checks"]["broker"] != "ok"
    assert seconds(unready) >= 1
    assert site.cut_off.get("/healthz").status_code == 200
    hit = site.cut_off.post("/v1/jobs", json=body)
    assert (hit.status_code, hit.json()["cache"]) == (200, "hit")

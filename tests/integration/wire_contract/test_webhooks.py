"""Webhooks, called by the real process."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from tests.integration.wire_contract.site import JOB, TURBO, Site, fresh, wait_until
from tests.webhooks.conftest import receiving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def delivered(site: Site, job: dict[str, Any]) -> dict[str, Any]:
    """The log of the job's webhook once nothing more will happen to it."""
    found: dict[str, Any] = {}

    def settled() -> bool:
        found.update(site.alice.http.get(job["urls"]["webhook"]).json())
        return found["status"] in ("delivered", "failed", "disabled")

    wait_until(settled, site)
    return found


def test_webhooks_are_signed_by_standard_webhooks_and_tried_again_under_one_id(site: Site) -> None:
    secret = site.alice.http.get("/v1/webhooks/secret").json()["secret"]
    assert secret.startswith("whsec_")
    with receiving() as elsewhere, receiving(500, (302, {"Location": elsewhere.url}), 204) as receiver:
        job = site.alice.ended(site.alice.submit(**fresh(webhook={"url": receiver.url})))
        log = delivered(site, job)
    assert log["status"] == "delivered"
    assert [attempt["status_code"] for attempt in log["attempts"]] == [500, 302, 204]
    assert elsewhere.requests == [], "a redirect is a failure, and not followed"
    assert receiver.ids == [log["id"]] * 3
    for headers, body in receiver.requests:
        event = Verifier(secret).verify(body, headers)
        assert event["type"] == "job.succeeded"
        assert event["data"]["id"] == job["id"]
        assert set(event["data"]) >= JOB
        stamp = headers["webhook-timestamp"]
        assert abs(int(stamp) - time.time()) < 60
        assert all(each.startswith("v1,") for each in headers["webhook-signature"].split(" "))
        with pytest.raises(WebhookVerificationError):
            Verifier(secret).verify(body.replace(b"job.succeeded", b"job.failed"), headers)
        other = site.bob.http.get("/v1/webhooks/secret").json()["secret"]
        with pytest.raises(WebhookVerificationError):
            Verifier(other).verify(body, headers)
    assert json.loads(receiver.requests[0][1])["data"]["images"] == job["images"]


def test_webhooks_that_are_answered_410_are_disabled(site: Site) -> None:
    with receiving(410) as receiver:
        for _ in range(2):
            job = site.alice.ended(site.alice.submit(**fresh(webhook={"url": receiver.url})))
            assert delivered(site, job)["status"] == "disabled"
    assert len(receiver.requests) == 1


def test_webhooks_tell_of_the_ends_that_were_asked_for(site: Site) -> None:
    with receiving() as receiver, site.held(TURBO):
        hook = {"url": receiver.url, "events": ["job.canceled"]}
        job = site.alice.submit(**fresh(webhook=hook))
        site.alice.http.post(job["urls"]["cancel"])
        assert delivered(site, job)["event"] == "job.canceled"
        assert json.loads(receiver.requests[0][1])["data"]["status"] == "canceled"

"""Webhooks in the API: which requests it accepts, and what the owner of a webhook can read."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from contracts.webhooks import Attempt, DeliveryStatus
from tests.api.conftest import ApiUnderTest, Opener
from tests.api.test_bad_input import check_shape

pytestmark = pytest.mark.anyio

URL = "https://example.com/hook"
ROUNDED_S = 0.001
"""As far as the store's stamps may be off by their rounding."""


@pytest.mark.parametrize(
    ("webhook", "param", "says"),
    [
        ("https://example.com", "webhook", "an object with a url"),
        ({}, "webhook.url", "required"),
        ({"url": 7}, "webhook.url", "a string"),
        ({"url": URL, "secret": "x"}, "webhook.secret", "known are webhook.url, webhook.events"),
        ({"url": URL, "events": "all"}, "webhook.events", "a list"),
        ({"url": URL, "events": [7]}, "webhook.events", "a list"),
        ({"url": URL, "events": []}, "webhook.events", "name an event"),
        ({"url": URL, "events": ["job.done"]}, "webhook.events", "job.succeeded"),
        ({"url": ""}, "webhook.url", "https"),
        ({"url": "example.com/hook"}, "webhook.url", "https"),
        ({"url": "ftp://example.com/"}, "webhook.url", "https"),
        ({"url": "file:///etc/passwd"}, "webhook.url", "https"),
        ({"url": "javascript:alert(1)"}, "webhook.url", "https"),
        ({"url": "http://example.com/"}, "webhook.url", "https"),
        ({"url": "https://" + "a" * 2048}, "webhook.url", "2048"),
        ({"url": "https://user:pass@example.com/"}, "webhook.url", "password"),
        ({"url": "https://example.com/#part"}, "webhook.url", "fragment"),
        ({"url": "https:///hook"}, "webhook.url", "host"),
        ({"url": "https://a..b/"}, "webhook.url", "host"),
        ({"url": "https://exa mple.com/"}, "webhook.url", "valid URL"),
        ({"url": "https://example.com\\@127.0.0.1/"}, "webhook.url", "valid URL"),
        ({"url": "https://example.com\n/"}, "webhook.url", "valid URL"),
        ({"url": "https://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/"}, "webhook.url", "valid URL"),
        ({"url": "https://\ud800/"}, "webhook.url", "valid URL"),
        ({"url": "https://example.com:0/"}, "webhook.url", "65535"),
        ({"url": "https://example.com:99999/"}, "webhook.url", "65535"),
        ({"url": "https://127.0.0.1/"}, "webhook.url", "internet"),
        ({"url": "https://127.0.0.1./"}, "webhook.url", "internet"),
        ({"url": "https://localhost:8000/"}, "webhook.url", "internet"),
        ({"url": "https://169.254.169.254/latest"}, "webhook.url", "internet"),
        ({"url": "https://[::ffff:10.0.0.1]/"}, "webhook.url", "internet"),
        ({"url": "https://127.1/"}, "webhook.url", "plain notation"),
        ({"url": "https://0x7f000001/"}, "webhook.url", "plain notation"),
        ({"url": "https://2130706433/"}, "webhook.url", "plain notation"),
        ({"url": "https://017700000001/"}, "webhook.url", "plain notation"),
        ({"url": "https://0177.0.0.1/"}, "webhook.url", "valid URL"),
    ],
)
async def test_what_cannot_be_called_is_refused_with_the_reason(
    api: ApiUnderTest, webhook: Any, param: str, says: str
) -> None:
    body = json.dumps({"prompt": "a", "webhook": webhook})
    response = await api.http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    error = check_shape(response)
    assert (response.status_code, error["param"]) == (422, param)
    assert says in error["message"]
    assert api.publisher.published == []


async def test_a_network_that_the_operator_allows(opened: Opener) -> None:
    api = await opened(webhook_allow_networks="10.1.0.0/16")
    job = await api.submit(webhook={"url": "http://10.1.2.3:8080/hook"})
    assert job["urls"]["webhook"] == f"{job['urls']['self']}/webhook"
    refused = await api.http.post("/v1/jobs", json={"prompt": "a", "webhook": {"url": "http://10.2.0.1/"}})
    assert refused.status_code == 422


async def test_the_log_of_a_delivery(api: ApiUnderTest) -> None:
    job = await api.submit(webhook={"url": "https://Bücher.example/hook?a=b", "events": ["job.succeeded"]})
    log = (await api.http.get(job["urls"]["webhook"])).json()
    assert log == {
        "id": f"msg_{job['id'].removeprefix('job_')}",
        "url": "https://xn--bcher-kva.example/hook?a=b",
        "events": ["job.succeeded"],
        "event": None,
        "status": None,
        "attempts": [],
        "next_attempt_at": None,
    }
    await api.work()
    store = api.stores.webhooks
    (call,) = await store.take(job["id"][-1], 10, 60)
    assert await store.begin(call, 60)
    attempt = Attempt(at=api.clock.now(), duration_ms=12.0, status_code=500)
    begun = time.time()
    await store.settle(call, attempt, DeliveryStatus.PENDING, 5.0)
    over = time.time()
    log = (await api.http.get(job["urls"]["webhook"])).json()
    assert (log["event"], log["status"]) == ("job.succeeded", "pending")
    assert log["attempts"] == [{"at": attempt.at, "duration_ms": 12.0, "status_code": 500, "error": None}]
    assert begun + 5 - ROUNDED_S <= log["next_attempt_at"] <= over + 5 + ROUNDED_S


async def test_a_job_without_a_webhook_has_an_empty_log(api: ApiUnderTest) -> None:
    job = await api.submit()
    assert job["urls"]["webhook"] is None
    log = (await api.http.get(f"{job['urls']['self']}/webhook")).json()
    assert (log["url"], log["events"], log["status"], log["attempts"]) == (None, [], None, [])
    assert (await api.http.get("/v1/jobs/nonsense/webhook")).status_code == 404


async def test_a_webhook_does_not_change_what_is_computed(api: ApiUnderTest) -> None:
    await api.submit()
    joined = await api.submit(webhook={"url": URL})
    assert joined["cache"] == "joined"
    assert "webhook" not in joined["request"]


async def test_secrets_are_read_and_rotated(api: ApiUnderTest) -> None:
    first = (await api.http.get("/v1/webhooks/secret")).json()
    assert first["secret"].startswith("whsec_")
    assert (first["previous"], first["previous_expires_at"]) == (None, None)
    assert (await api.http.get("/v1/webhooks/secret")).json() == first
    begun = time.time()
    rotated = (await api.http.post("/v1/webhooks/secret/rotate")).json()
    over = time.time()
    assert rotated["previous"] == first["secret"] != rotated["secret"]
    assert begun - ROUNDED_S <= rotated["previous_expires_at"] - 86_400 <= over + ROUNDED_S
    api.clock.advance(86_401)
    later = (await api.http.get("/v1/webhooks/secret")).json()
    assert (later["secret"], later["previous"]) == (rotated["secret"], None)

"""The operator's view: who loads the platform, an audit trail, and every tenant's jobs by a key of the scope admin."""

from __future__ import annotations

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from api.usage import Usage
from contracts.errors import StoreUnavailable
from contracts.jobs import CacheStatus
from contracts.usage import Counts
from runtime.clock import ManualClock
from tests.api.conftest import ADMIN_KEY, ApiUnderTest, Opener
from tests.api.test_keys import bearer, made

pytestmark = pytest.mark.anyio
ADMIN = bearer(ADMIN_KEY)


@pytest.fixture
async def closed(opened: Opener) -> ApiUnderTest:
    return await opened(allow_anonymous=False)


async def submit(api: ApiUnderTest, key: str, **body: Any) -> dict[str, Any]:
    answer = await api.http.post("/v1/jobs", json={"prompt": "a", **body}, headers=bearer(key))
    assert answer.status_code in (200, 202), answer.text
    job: dict[str, Any] = answer.json()
    return job


async def usage(api: ApiUnderTest, **params: str) -> list[dict[str, Any]]:
    answer = await api.http.get("/v1/admin/usage", params=params, headers=ADMIN)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


def only(logs: Any, event: str) -> list[dict[str, Any]]:
    return [line for line in logs if line["event"] == event]


async def test_an_accepted_job_is_logged_with_tenant_and_key_id(closed: ApiUnderTest) -> None:
    key = await made(closed)
    with capture_logs() as logs:
        await submit(closed, key["key"])
    (line,) = only(logs, "job_accepted")
    assert (line["tenant"], line["key_id"]) == ("acme", key["id"])
    assert key["key"] not in json.dumps(logs)


async def test_every_call_of_an_administrator_leaves_a_line(closed: ApiUnderTest) -> None:
    key = await made(closed)
    job = await submit(closed, key["key"])
    calls = [
        ("GET", "/v1/keys?tenant=acme", 200),
        ("DELETE", f"/v1/keys/{key['id']}", 200),
        ("DELETE", "/v1/keys/dk_nobodys0", 404),
        ("POST", "/v1/keys", 415),
        ("GET", "/v1/cache", 200),
        ("GET", "/v1/admin/usage", 200),
        ("GET", f"/v1/jobs/{job['id']}", 200),
        ("GET", "/v1/jobs?tenant=acme", 200),
        ("POST", f"/v1/jobs/{job['id']}/cancel", 200),
    ]
    for method, path, status in calls:
        with capture_logs() as logs:
            answer = await closed.http.request(method, path, headers=ADMIN)
        assert answer.status_code == status, (path, answer.text)
        (line,) = only(logs, "admin_call")
        assert (line["method"], line["status"], line["key_id"]) == (method, status, ADMIN_KEY[:11])
        assert path in (line["path"], f"{line['path']}?{line['query']}")
        assert ADMIN_KEY not in json.dumps(logs)
    with capture_logs() as logs:
        await closed.http.get("/v1/jobs", headers=ADMIN)
    assert only(logs, "admin_call") == [], "its own jobs are no business of an administrator's"


async def test_every_refused_key_leaves_a_line(closed: ApiUnderTest) -> None:
    key = await made(closed)
    unknown = "dk_" + "x" * 43
    for headers, path, code, key_id, tenant in [
        ({}, "/v1/jobs", "missing_api_key", None, None),
        (bearer(unknown), "/v1/jobs", "invalid_api_key", unknown[:11], None),
        (bearer("secret\tof another"), "/v1/jobs", "invalid_api_key", None, None),
        (bearer(key["key"]), "/v1/keys", "insufficient_scope", key["id"], "acme"),
        (bearer(key["key"]), "/v1/admin/usage", "insufficient_scope", key["id"], "acme"),
        (bearer(key["key"]), "/v1/jobs?tenant=other", "insufficient_scope", key["id"], "acme"),
    ]:
        with capture_logs() as logs:
            answer = await closed.http.get(path, headers=headers)
        assert answer.json()["error"]["code"] == code
        (line,) = only(logs, "key_refused")
        assert (line["code"], line["key_id"], line["tenant"]) == (code, key_id, tenant)
        assert unknown not in json.dumps(logs)
        assert "secret" not in json.dumps(logs)
    with capture_logs() as logs:
        answer = await closed.http.post("/v1/jobs", json={"prompt": "a"}, headers=bearer(unknown))
    assert answer.status_code == 401
    assert len(only(logs, "key_refused")) == 1


async def test_an_administrator_sees_and_cancels_any_job(closed: ApiUnderTest) -> None:
    acme, other = await made(closed), await made(closed, "other")
    ruler = await made(closed, "operators", scopes=["admin"])
    job = await submit(closed, acme["key"])
    path = f"/v1/jobs/{job['id']}"
    for headers in (ADMIN, bearer(ruler["key"])):
        seen = await closed.http.get(path, headers=headers)
        assert (seen.status_code, seen.headers["X-Tenant"]) == (200, "acme")
        assert seen.json()["id"] == job["id"]
        listed = await closed.http.get("/v1/jobs", params={"tenant": "acme"}, headers=headers)
        assert [each["id"] for each in listed.json()["data"]] == [job["id"]]
    assert (await closed.http.get(f"{path}/events", headers=bearer(other["key"]))).status_code == 404
    assert (await closed.http.get(path, headers=bearer(other["key"]))).status_code == 404
    assert (await closed.http.post(f"{path}/cancel", headers=bearer(other["key"]))).status_code == 404
    mine = await closed.http.get(path, headers=bearer(acme["key"]))
    assert "X-Tenant" not in mine.headers
    assert mine.json()["status"] == "queued"
    canceled = await closed.http.post(f"{path}/cancel", headers=bearer(ruler["key"]))
    assert (canceled.status_code, canceled.json()["status"]) == (200, "canceled")
    assert canceled.headers["X-Tenant"] == "acme"
    told = await closed.http.get(f"{path}/events", headers=bearer(ruler["key"]))
    assert '"canceled"' in told.text
    own = await made(closed, scopes=["admin"])
    with capture_logs() as logs:
        assert (await closed.http.get(path, headers=bearer(own["key"]))).status_code == 200
    assert only(logs, "admin_call"), "of its own tenant too, for it lacks the scope generate"
    refused = await closed.http.post("/v1/jobs", json={"prompt": "a"}, headers=bearer(ruler["key"]))
    assert refused.status_code == 403, "the scope admin makes no pictures"
    nobody = await closed.http.get("/v1/jobs/job_01hf7yat00f3q8m2k5t9v1x4za7", headers=ADMIN)
    assert nobody.status_code in (404, 410)
    for wrong in ("", "A", "x" * 64, "a b"):
        answer = await closed.http.get("/v1/jobs", params={"tenant": wrong}, headers=ADMIN)
        assert answer.status_code == 422, wrong


async def test_without_a_key_nobody_sees_anothers_jobs(api: ApiUnderTest) -> None:
    answer = await api.http.get("/v1/jobs", params={"tenant": "acme"})
    assert answer.status_code == 401
    assert (await api.http.get("/v1/admin/usage")).status_code == 401
    assert (await api.http.get("/v1/jobs", params={"tenant": "public"})).status_code == 200


async def test_usage_tells_who_asked_for_what(closed: ApiUnderTest) -> None:
    acme = await made(closed)
    other = await made(closed, "other", requests_per_minute=1)
    await submit(closed, acme["key"], num_images=2)
    await submit(closed, acme["key"], num_images=2)
    await closed.work(closed.publisher.published[0])
    await submit(closed, acme["key"], num_images=2)
    await submit(closed, other["key"])
    again = await closed.http.post("/v1/jobs", json={"prompt": "b"}, headers=bearer(other["key"]))
    assert again.status_code == 429
    first, second = await usage(closed)
    steps = closed.publisher.published[0].request.steps
    assert first == {
        "tenant": "acme",
        "jobs": 3,
        "hits": 1,
        "joined": 1,
        "images": 6,
        "steps": steps,
        "refused": 0,
    }
    assert (second["tenant"], second["jobs"], second["refused"]) == ("other", 1, 1)
    assert await usage(closed, tenant="other") == [second]
    assert await usage(closed, day="2001-01-01") == []
    for params in ({"day": "yesterday"}, {"day": "2026-13-01"}, {"tenant": "A"}, {"days": "1"}):
        answer = await closed.http.get("/v1/admin/usage", params=params, headers=ADMIN)
        assert answer.status_code == 422, params
    closed.clock.advance(86_400)
    assert await usage(closed) == [], "a new day"


class Away:
    """A store that takes counts when it is there."""

    def __init__(self) -> None:
        self.there = False
        self.taken: list[Counts] = []

    async def add(self, day: str, counts: Counts) -> None:
        if not self.there:
            raise StoreUnavailable("away")
        self.taken.append(dict(counts))

    async def of(self, day: str) -> Counts:
        return {}


async def test_what_the_store_does_not_take_is_kept_for_the_next_time(anyio_backend: str) -> None:
    store = Away()
    counted = Usage(store, 0, ManualClock())
    counted.accepted("a", CacheStatus.MISS, 1, 4)
    await counted.flush()
    counted.refused("a")
    store.there = True
    await counted.flush()
    await counted.flush()
    assert store.taken == [{("a", "jobs"): 1, ("a", "images"): 1, ("a", "steps"): 4, ("a", "refused"): 1}]

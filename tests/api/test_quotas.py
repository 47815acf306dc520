"""Quotas of a key, on two applications that share one Redis and one RabbitMQ."""

from __future__ import annotations

import asyncio

import pytest

from backends.redis_client import connect
from contracts.ids import shard_of
from contracts.jobs import JobFailure, JobStatus
from store.key_names import Layout
from tests.api.two_applications import Site, tally
from tests.api.two_applications import site as site

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_concurrent_jobs_are_limited_exactly_and_freed_at_once(site: Site) -> None:
    headers = await site.key("acme", concurrent_jobs=4)
    responses = await site.posted(50, headers)
    assert tally(responses) == {202: 4, 429: 46}
    refused = next(response for response in responses if response.status_code == 429)
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("quota_exceeded", "rate_limit_error")
    assert error["details"] == {"limit": "concurrent_jobs", "value": 4}
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["ratelimit-policy"] == '"concurrent_jobs";q=4;qu="jobs"'
    assert refused.headers["ratelimit"] == '"concurrent_jobs";r=0'
    assert refused.headers["ratelimit-remaining"] == "0"

    live = [response.json()["id"] for response in responses if response.status_code == 202]
    other = await site.key("acme", concurrent_jobs=1)
    assert (await site.post(900, other)).status_code == 202, "each key has its own"

    # Every way for a job to end frees its place for the very next request, once.
    async def done(job_id: str) -> None:
        await site.finish("acme", job_id)

    async def failed(job_id: str) -> None:
        _, lease = await site.claimed("acme", job_id)
        await site.stores.jobs.fail(lease, JobFailure(code="x", message="x"))

    async def canceled(job_id: str) -> None:
        assert (await site.http[0].post(f"/v1/jobs/{job_id}/cancel", headers=headers)).status_code == 200

    async def expired(job_id: str) -> None:
        jobs, client = site.stores.jobs, connect(site.settings.redis_url, 2.0)
        # Its time has come, and no other's.
        layout = Layout(site.settings.shards)
        await client.hset(layout.job_key(job_id), "deadline", "1.0")
        await client.zadd(f"{layout.job_prefix(job_id)}deadlines", {job_id: 1.0})
        await client.aclose()
        await jobs.sweep(shard_of(job_id), 10)
        assert (await jobs.get("acme", job_id)).status is JobStatus.EXPIRED

    for number, end in enumerate((done, failed, canceled, expired)):
        await end(live[number])
        assert tally(await site.posted(6, headers, start=100 + 10 * number)) == {202: 1, 429: 5}, end


async def test_waiting_jobs_are_limited_apart_from_running_ones(site: Site) -> None:
    headers = await site.key("acme", queued_jobs=2)
    responses = await site.posted(10, headers)
    assert tally(responses) == {202: 2, 429: 8}
    assert {r.json()["error"]["details"]["limit"] for r in responses if r.status_code == 429} == {
        "queued_jobs"
    }
    first = next(response.json()["id"] for response in responses if response.status_code == 202)
    await site.claimed("acme", first)
    assert tally(await site.posted(10, headers, start=20)) == {202: 1, 429: 9}


async def test_a_rate_is_told_kept_and_recovers_when_it_said(site: Site) -> None:
    headers = await site.key("acme", requests_per_minute=60, burst=3)
    first = await site.post(0, headers)
    assert first.headers["ratelimit-policy"] == '"requests_per_minute";q=3;w=3'
    assert first.headers["ratelimit"] == '"requests_per_minute";r=2;t=1'
    assert [first.headers[f"ratelimit-{name}"] for name in ("limit", "remaining", "reset")] == ["3", "2", "1"]
    responses = await site.posted(20, headers, start=1)
    refused = [response for response in responses if response.status_code == 429]
    assert len(refused) in (17, 18)  # a second may pass meanwhile
    assert refused[0].json()["error"]["details"] == {"limit": "requests_per_minute", "value": 60.0}
    await asyncio.sleep(int(refused[0].headers["retry-after"]))
    assert (await site.post(50, headers)).status_code == 202


async def test_pictures_per_day_count_what_is_accepted(site: Site) -> None:
    headers = await site.key("acme", images_per_day=5)
    responses = await site.posted(4, headers, num_images=2)
    assert tally(responses) == {202: 2, 429: 2}
    error = next(r for r in responses if r.status_code == 429).json()["error"]
    assert error["details"] == {"limit": "images_per_day", "value": 5}
    assert "1 are left today" in error["message"]
    bad = await site.post(60, headers, width=63)
    assert bad.status_code == 422, "what is refused costs nothing"
    last = await site.post(61, headers)
    assert last.status_code == 202
    assert last.headers["ratelimit"].startswith('"images_per_day";r=0;t=')

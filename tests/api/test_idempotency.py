"""Idempotency keys, on two applications that share one Redis and one RabbitMQ."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest

from contracts.ids import new_job_id
from contracts.jobs import NewJob
from contracts.tenancy import Reservation
from tests.api.two_applications import Site, tally
from tests.api.two_applications import site as site

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_one_idempotency_key_a_hundred_times_is_one_job(site: Site) -> None:
    headers = {**await site.key("acme", concurrent_jobs=1, images_per_day=1), "Idempotency-Key": "order-1"}

    async def copy(index: int) -> httpx.Response:
        body = (
            {"prompt": "a red apple", "seed": "random"}
            if index % 3
            else {"seed": "random", "prompt": "a red apple"}
        )
        return await site.http[index % 2].post("/v1/jobs", json=body, headers=headers)

    responses = await asyncio.gather(*(copy(index) for index in range(100)))
    assert tally(responses) == {202: 100}
    assert len({response.json()["id"] for response in responses}) == 1
    assert sum("idempotency-replayed" not in response.headers for response in responses) == 1
    assert 1 <= site.published() <= 2, "at most once for each API process"
    assert len((await site.http[0].get("/v1/jobs", headers=headers)).json()["data"]) == 1

    other = await site.http[1].post("/v1/jobs", json={"prompt": "a green pear"}, headers=headers)
    assert other.status_code == 422
    assert other.json()["error"]["code"] == "idempotency_key_reuse"
    assert other.json()["error"]["param"] == "Idempotency-Key"

    job = responses[0].json()
    await site.finish("acme", job["id"])
    again = await copy(1)
    assert again.status_code == 202, "the status of the first answer"
    assert again.headers["location"] == responses[0].headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.json()["id"], again.json()["status"]) == (job["id"], "succeeded")

    theirs = {**await site.key("other"), "Idempotency-Key": "order-1"}
    mine = await site.http[0].post("/v1/jobs", json={"prompt": "a green pear"}, headers=theirs)
    assert mine.status_code == 202, "a key is its tenant's"
    assert mine.json()["id"] != job["id"]


@pytest.mark.parametrize("recorded", [False, True])
async def test_a_crash_after_the_reservation_blocks_nobody(site: Site, recorded: bool) -> None:
    """The process died between reserving the key and recording the job, or between that and publishing it."""
    headers = {**await site.key("acme"), "Idempotency-Key": "k"}
    body = {"prompt": "a red apple", "seed": "random"}
    probe = (await site.http[0].post("/v1/jobs", json=body, headers=headers)).json()
    (name,) = await site.redis.keys("darkroom:idempotency:*")
    stored = await site.redis.get(name)
    assert isinstance(stored, str)
    done = Reservation.model_validate_json(stored)
    first = await site.stores.jobs.get("acme", probe["id"])
    dead = NewJob(
        id=new_job_id(time.time(), first.key[0]),
        tenant="acme",
        key=first.key,
        request=first.request.model_copy(update={"prompt": "of the dead process"}),
        ttl_s=60,
    )
    await site.http[0].post(f"/v1/jobs/{probe['id']}/cancel", headers=headers)
    await site.redis.set(name, Reservation(fingerprint=done.fingerprint, new=dead).model_dump_json())
    if recorded:
        assert (await site.stores.jobs.submit(dead)).lead
    before = site.published()
    responses = await asyncio.gather(
        *(site.http[i % 2].post("/v1/jobs", json=body, headers=headers) for i in range(10))
    )
    assert tally(responses) == {202: 10}
    assert {response.json()["id"] for response in responses} == {dead.id}
    assert site.published() > before
    async with asyncio.timeout(5):
        while await site.redis.zcard(f"darkroom:{{s{dead.id[-1]}}}:outbox"):
            await asyncio.sleep(0.01)

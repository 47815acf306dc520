"""Cancellation against completion, on two applications that share one Redis and one RabbitMQ."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import httpx
import pytest

from contracts.ids import SHARDS
from contracts.jobs import JobStatus
from contracts.transitions import Finished
from tests.api.two_applications import Site
from tests.api.two_applications import site as site
from tests.store.made import result

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


RACES = 200
LATEST_S = 0.1
"""Either side begins by then, at a random moment: so either side wins some."""


async def test_a_cancel_that_races_the_end_of_its_job_has_one_winner(site: Site) -> None:
    headers = await site.key("acme", concurrent_jobs=50)
    terminal: Counter[str] = Counter()
    pubsub = site.redis.pubsub()
    await pubsub.subscribe(*(f"darkroom:{{s{shard}}}:events" for shard in SHARDS))

    for _ in SHARDS:
        assert await pubsub.get_message(timeout=5), "subscribed"

    async def race(index: int) -> str:
        response = await site.post(index, headers)
        assert response.status_code == 202, response.text
        job_id = response.json()["id"]
        _, lease = await site.claimed("acme", job_id)

        async def finish() -> Finished:
            await asyncio.sleep(random.random() * LATEST_S)
            return await site.stores.jobs.succeed(lease, result())

        async def cancel() -> httpx.Response:
            await asyncio.sleep(random.random() * LATEST_S)
            return await site.http[index % 2].post(f"/v1/jobs/{job_id}/cancel", headers=headers)

        finished, canceled = await asyncio.gather(finish(), cancel())
        status = (await site.stores.jobs.get("acme", job_id)).status.value
        assert canceled.status_code == 200
        assert canceled.json()["status"] == status
        assert status == ("succeeded" if finished.applied else "canceled")
        assert not (await site.stores.jobs.succeed(lease, result())).applied, "final"
        return status

    seen: Counter[str] = Counter()
    for start in range(0, RACES, 50):
        seen.update(await asyncio.gather(*(race(index) for index in range(start, start + 50))))
    while message := await pubsub.get_message(ignore_subscribe_messages=True, timeout=0.5):
        job_id, status = message["data"].split(" ", 2)[:2]
        if JobStatus(status).terminal:
            terminal[job_id] += 1
    await pubsub.aclose()  # type: ignore[no-untyped-call]
    assert len(terminal) == RACES
    assert set(terminal.values()) == {1}, "told once"
    assert seen.total() == RACES
    assert min(seen["succeeded"], seen["canceled"]) > 0, "a race that one side always wins is none"
    print(f"cancel against completion: {dict(seen)}")

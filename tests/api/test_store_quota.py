"""One tenant cannot fill the store for all: what its kept jobs take is bounded, and the last part of the store is for what must end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from api.store_quota import LIMIT, Room, kept_bytes
from backends.redis_client import connect, disconnect
from cli.services.redis import RedisServer
from contracts.errors import QuotaExceeded, StoreFull
from contracts.jobs import CacheStatus, Job, JobStatus, Webhook
from contracts.memory_use import Memory
from contracts.settings import ApiSettings
from contracts.webhooks import EVENTS
from runtime.clock import ManualClock
from store.memory_use import KEPT_PREFIX, RedisMemoryUseStore, memory_of
from tests.api.conftest import ADMIN, ApiUnderTest, Opener
from tests.store.made import new
from tests.store.test_full import at_its_limit

pytestmark = pytest.mark.anyio

HOUR = 3600.0
MB = 1_000_000


def ended(tenant: str, clock: ManualClock, **more: Any) -> Job:
    made = new(tenant=tenant)
    fields: dict[str, Any] = {
        "id": made.id,
        "tenant": tenant,
        "key": made.key,
        "request": made.request,
        "status": JobStatus.SUCCEEDED,
        "cache": CacheStatus.HIT,
        "created_at": clock.now(),
        "deadline": clock.now() + 300,
    }
    return Job(**{**fields, **more})


@dataclass
class Two:
    """The rooms of two API processes, on one Redis."""

    first: Room
    second: Room
    clock: ManualClock
    store: RedisMemoryUseStore
    control: redis.Redis

    async def tick(self) -> None:
        for room in (self.first, self.second, self.first):
            await room.tick()


def opened_on(server: RedisServer, client: Any, control: redis.Redis, **settings: Any) -> Two:
    clock = ManualClock(1_800_000_000.0)
    store = RedisMemoryUseStore(client, clock, 5.0)
    given = ApiSettings(redis_url=server.url, **settings)
    return Two(Room(store, given, clock), Room(store, given, clock), clock, store, control)


@pytest.fixture
async def two(anyio_backend: str, redis_server: RedisServer) -> AsyncIterator[Two]:
    client = connect(redis_server.url, 5.0)
    with redis.Redis(port=redis_server.port, decode_responses=True) as control:
        control.flushall()
        yield opened_on(redis_server, client, control, tenant_store_bytes=20 * 1000)
        control.config_set("maxmemory", 0)
    await disconnect(client)


async def test_a_tenant_that_is_at_its_bound_is_refused_by_every_process_and_others_are_not(two: Two) -> None:
    each = kept_bytes(ended("greedy", two.clock))
    for _ in range(20_000 // each + 1):
        two.first.require("greedy")
        two.first.note(ended("greedy", two.clock), repeats=False)
    with pytest.raises(QuotaExceeded):
        two.first.require("greedy")
    two.second.require("greedy")  # which it learns at its next count
    await two.tick()
    for room in (two.first, two.second):
        with pytest.raises(QuotaExceeded) as refused:
            room.require("greedy")
        room.require("good")
        assert refused.value.details == {"limit": LIMIT, "value": 20_000}
        assert refused.value.retry_after_s is not None
        assert 22 * HOUR < refused.value.retry_after_s <= 26 * HOUR


async def test_what_lapses_makes_room(two: Two) -> None:
    two.first.note(
        ended("greedy", two.clock, webhook=Webhook(url="https://r.example/", events=EVENTS)), repeats=True
    )
    for hours in (0, 6):
        two.clock.advance(hours * HOUR)
        for _ in range(6):
            two.first.note(ended("greedy", two.clock), repeats=False)
    await two.tick()
    with pytest.raises(QuotaExceeded):
        two.first.require("greedy")
    two.clock.advance(19.5 * HOUR)
    two.first.require("greedy")
    two.second.require("greedy")
    await two.tick()
    left = two.control.hgetall(f"{KEPT_PREFIX}greedy")
    assert len(left) == 2, (
        "the record that owes a webhook, for four days, and what was recorded later, for six hours"
    )
    assert min(map(float, left)) > two.clock.now()
    expires = two.control.expiretime(f"{KEPT_PREFIX}greedy")
    assert 2.9 * 24 * HOUR < expires - two.clock.now() < 3 * 24 * HOUR, "as long as the last of it"


async def test_half_of_maxmemory_is_the_bound_where_none_is_set(two: Two, redis_server: RedisServer) -> None:
    mine = opened_on(redis_server, two.store._client, two.control)
    mine.first.note(ended("greedy", mine.clock), repeats=False)
    await mine.first.tick()
    assert mine.first.memory == Memory(mine.first.memory.used_bytes, 0)  # type: ignore[union-attr]
    mine.first.require("greedy")
    two.control.config_set("maxmemory", 100 * MB)
    for _ in range(50 * MB // kept_bytes(ended("greedy", mine.clock)) + 1):
        mine.first.note(ended("greedy", mine.clock), repeats=False)
    await mine.first.tick()
    with pytest.raises(QuotaExceeded) as refused:
        mine.first.require("greedy")
    assert refused.value.details == {"limit": LIMIT, "value": 50 * MB}


async def test_nobody_is_taken_where_the_store_is_nearly_full(two: Two) -> None:
    used = (await memory_of(two.store._client, 5.0))[0].used_bytes
    two.control.config_set("maxmemory", int(used / 0.85))
    await two.first.tick()
    two.first.require("good")
    two.control.config_set("maxmemory", int(used / 0.95))
    await two.first.tick()
    with pytest.raises(StoreFull):
        two.first.require("good")
    two.control.config_set("maxmemory", 2 * used)
    await two.first.tick()
    two.first.require("good")


async def test_what_could_not_be_counted_is_counted_later(two: Two, redis_server: RedisServer) -> None:
    two.first.note(ended("greedy", two.clock), repeats=False)
    with at_its_limit(redis_server) as fill:
        fill()
        with pytest.raises(StoreFull):
            await two.first.tick()
    two.first.note(ended("greedy", two.clock), repeats=False)
    await two.first.tick()
    await two.first.tick()
    (size,) = two.control.hgetall(f"{KEPT_PREFIX}greedy").values()
    assert int(size) == 2 * kept_bytes(ended("greedy", two.clock))


async def test_what_was_recorded_last_is_counted_at_the_end(two: Two) -> None:
    two.first.note(ended("greedy", two.clock), repeats=False)
    await two.first.close()
    (size,) = two.control.hgetall(f"{KEPT_PREFIX}greedy").values()
    assert int(size) == kept_bytes(ended("greedy", two.clock))


async def keyed(api: ApiUnderTest, tenant: str) -> dict[str, str]:
    made = await api.http.post("/v1/keys", json={"tenant": tenant}, headers=ADMIN)
    return {"X-API-Key": made.json()["key"]}


async def test_over_http_the_refusal_names_the_limit(opened: Opener) -> None:
    api = await opened(tenant_store_bytes=7000)
    greedy, good = await keyed(api, "greedy"), await keyed(api, "good")
    first = {**greedy, "Idempotency-Key": "first"}
    answers = [await api.http.post("/v1/jobs", json={"prompt": "a red apple"}, headers=first)]
    answers += [
        await api.http.post("/v1/jobs", json={"prompt": f"apple {n}"}, headers=greedy) for n in range(4)
    ]
    assert [each.status_code for each in answers] == [202, 202, 202, 429, 429]
    error = answers[-1].json()["error"]
    assert (error["code"], error["details"]) == ("quota_exceeded", {"limit": LIMIT, "value": 7000})
    assert "24 hours" in error["message"]
    assert int(answers[-1].headers["Retry-After"]) > HOUR
    again = await api.http.post("/v1/jobs", json={"prompt": "a red apple"}, headers=first)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")
    read = await api.http.get(answers[0].headers["Location"], headers=greedy)
    assert read.status_code == 200
    assert (await api.http.post("/v1/jobs", json={"prompt": "a pear"}, headers=good)).status_code == 202
    # One by one in a batch as well.
    batch = {"requests": [{"prompt": "one"}, {"prompt": "two"}]}
    answer = await api.http.post("/v1/jobs:batch", json=batch, headers=greedy)
    assert [each["status"] for each in answer.json()["data"]] == [429, 429]


async def test_keys_of_refused_jobs_are_counted_too(opened: Opener) -> None:
    """An Idempotency-Key holds the whole job before it is admitted: refused ones must not fill the store."""
    api = await opened(tenant_store_bytes=40_000)
    made = await api.http.post("/v1/keys", json={"tenant": "greedy", "requests_per_minute": 1}, headers=ADMIN)
    limits = []
    for number in range(30):
        headers = {"X-API-Key": made.json()["key"], "Idempotency-Key": str(number)}
        body = {"prompt": f"{number} " + "a " * 900, "negative_prompt": "b " * 900}
        answer = await api.http.post("/v1/jobs", json=body, headers=headers)
        limits.append("" if answer.status_code == 202 else answer.json()["error"]["details"]["limit"])
    assert limits[:3] == ["", "requests_per_minute", "requests_per_minute"]
    assert limits[-1] == LIMIT
    assert limits.index(LIMIT) < 12


async def test_a_key_of_an_accepted_job_counts_for_its_id_alone(opened: Opener) -> None:
    api = await opened(tenant_store_bytes=200_000)
    greedy = await keyed(api, "greedy")
    statuses = []
    for number in range(30):  # 4 kB each, if their texts were kept twice 8
        body = {"prompt": f"{number} " + "a " * 900, "negative_prompt": "b " * 900}
        answer = await api.http.post(
            "/v1/jobs", json=body, headers={**greedy, "Idempotency-Key": str(number)}
        )
        statuses.append(answer.status_code)
    assert set(statuses) == {202}

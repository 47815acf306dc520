"""What lingers in the outbox is published, and a broker that is away loses nothing."""

from __future__ import annotations

import pytest

from broker.memory import MemoryPublisher
from broker.relay import Relay, publish_all
from cache.memory import memory_stores
from contracts.clock import ManualClock
from contracts.errors import BrokerUnavailable
from contracts.jobs import JobStatus
from contracts.settings import BackendSettings
from tests.cache.test_jobs import new

pytestmark = pytest.mark.anyio


async def test_an_unconfirmed_job_is_published_by_a_later_tick(anyio_backend: str) -> None:
    clock, publisher = ManualClock(), MemoryPublisher()
    jobs = memory_stores(BackendSettings(), clock).jobs
    message = (await jobs.submit(new())).job.message()
    relay = Relay(jobs, publisher, 1.0)
    await relay.tick()
    assert publisher.published == []
    clock.advance(6)
    publisher.fault = BrokerUnavailable("away")
    await relay.tick()
    assert publisher.published == []
    clock.advance(6)
    publisher.fault = None
    await relay.tick()
    assert publisher.published == [message]
    clock.advance(6)
    await relay.tick()
    assert publisher.published == [message], "a confirmed message is not published again"


async def test_followers_of_an_expired_leader_are_published_at_once(anyio_backend: str) -> None:
    clock, publisher = ManualClock(), MemoryPublisher()
    jobs = memory_stores(BackendSettings(), clock).jobs
    leader, follower = new(ttl_s=5), new(ttl_s=60)
    await jobs.submit(leader)
    await jobs.confirm(leader.id)
    await jobs.submit(follower)
    clock.advance(6)
    await Relay(jobs, publisher, 1.0).tick()
    assert [message.job_id for message in publisher.published] == [follower.id]
    assert (await jobs.get("public", leader.id)).status is JobStatus.EXPIRED


async def test_one_failure_does_not_hold_up_the_others(anyio_backend: str) -> None:
    class Choosy(MemoryPublisher):
        async def publish(self, message: object) -> None:
            if message == bad:
                raise BrokerUnavailable("not this one")
            await super().publish(message)  # type: ignore[arg-type]

    jobs, publisher = memory_stores(BackendSettings(), ManualClock()).jobs, Choosy()
    messages = [(await jobs.submit(new(digit * 64))).job.message() for digit in "abc"]
    bad = messages[1]
    await publish_all(jobs, publisher, messages, "test")
    assert publisher.published == [messages[0], messages[2]]

"""What lingers in the outbox is published, and a broker that is away loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from backends.blobs import DirectoryBlobStore
from broker.relay import publish_all
from broker.sweeper import LEASE_S, Sweeper
from cli.services.redis import RedisServer
from contracts.errors import BrokerUnavailable
from contracts.jobs import JobStatus
from contracts.ports.dead_letters import DeadLetter
from contracts.settings import BackendSettings
from runtime.clock import ManualClock
from store.stores import Stores
from tests.publishers import RecordingPublisher
from tests.store.made import new
from tests.stores import StoreClock, opened_stores

pytestmark = pytest.mark.anyio


def deleted() -> float:
    return REGISTRY.get_sample_value("darkroom_blobs_pruned_total") or 0.0


class Letters:
    """The `DeadLetters` that a test lays out: `waiting` holds them in order, `kept` what was no job. A fake, for one of each kind
    to wait at once; `test_dead_letters.py` has a real broker's."""

    def __init__(self, *waiting: DeadLetter) -> None:
        self.waiting = list(waiting)
        self.kept: list[DeadLetter] = []

    async def take(self, limit: int) -> list[DeadLetter]:
        return self.waiting[:limit]

    async def settle(self, verdicts: list[tuple[DeadLetter, bool]]) -> None:
        for letter, done in verdicts:
            self.waiting.remove(letter)
            if not done:
                self.waiting.append(letter)
            elif letter.message is None:
                self.kept.append(letter)

    async def release(self) -> None:
        return None

    async def close(self) -> None:
        return None


@pytest.fixture
async def stores(anyio_backend: str, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Stores]:
    async with opened_stores(redis_server, tmp_path) as opened:
        yield opened


@pytest.fixture
def clock(stores: Stores, redis_server: RedisServer) -> StoreClock:
    return StoreClock(stores, redis_server.url)


@pytest.fixture
def publisher() -> RecordingPublisher:
    return RecordingPublisher()


def sweeper(
    stores: Stores, publisher: RecordingPublisher, clock: ManualClock, letters: Letters | None = None
) -> Sweeper:
    return Sweeper(stores.jobs, stores.blobs, publisher, letters, BackendSettings(), clock, 1.0)


async def test_an_unconfirmed_job_is_published_by_a_later_tick(
    stores: Stores, publisher: RecordingPublisher, clock: StoreClock
) -> None:
    jobs = stores.jobs
    message = (await jobs.submit(new())).job.message()
    relay = sweeper(stores, publisher, clock)
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


async def test_followers_of_an_expired_leader_are_published_at_once(
    stores: Stores, publisher: RecordingPublisher, clock: StoreClock
) -> None:
    jobs = stores.jobs
    leader, follower = new(ttl_s=5), new(ttl_s=60)
    await jobs.submit(leader)
    await jobs.confirm(leader.id)
    await jobs.submit(follower)
    clock.advance(6)
    await sweeper(stores, publisher, clock).tick()
    assert [message.job_id for message in publisher.published] == [follower.id]
    assert (await jobs.get("public", leader.id)).status is JobStatus.EXPIRED


async def test_one_failure_does_not_hold_up_the_others(stores: Stores) -> None:
    class Choosy(RecordingPublisher):
        async def publish(self, message: object) -> None:
            if message == bad:
                raise BrokerUnavailable("not this one")
            await super().publish(message)  # type: ignore[arg-type]

    jobs, publisher = stores.jobs, Choosy()
    messages = [(await jobs.submit(new(digit * 64))).job.message() for digit in "abc"]
    bad = messages[1]
    await publish_all(jobs, publisher, messages, "test")
    assert publisher.published == [messages[0], messages[2]]


async def test_one_sweeper_at_a_time_keeps_house_and_another_takes_over(
    stores: Stores, publisher: RecordingPublisher, clock: StoreClock
) -> None:
    first, second = (sweeper(stores, publisher, clock) for _ in range(2))
    assert [await first.tick(), await second.tick(), await first.tick()] == [True, False, True]
    clock.advance(LEASE_S + 0.1)
    assert [await second.tick(), await first.tick()] == [True, False]


async def test_a_job_whose_worker_and_message_are_gone_is_published_again(
    stores: Stores, publisher: RecordingPublisher, clock: StoreClock
) -> None:
    message = (await stores.jobs.submit(new())).job.message()
    await stores.jobs.confirm(message.job_id)
    await stores.jobs.claim(message, "dies")
    keeper = sweeper(stores, publisher, clock)
    clock.advance(15)  # the lease has lapsed, but the broker may just be about to deliver the message again
    await keeper.tick()
    assert publisher.published == []
    clock.advance(6)
    await keeper.tick()
    await keeper.tick()
    assert publisher.published == [message], "once, and not at every tick"


async def test_dead_letters_end_failed_and_what_is_no_job_is_kept(
    stores: Stores, publisher: RecordingPublisher, clock: StoreClock
) -> None:
    message = (await stores.jobs.submit(new())).job.message()
    running = (await stores.jobs.submit(new("b" * 64))).job.message()
    await stores.jobs.claim(running, "w1")
    letters = Letters(
        DeadLetter(1, b"x", message),
        DeadLetter(2, b"cos\nsystem", None, "JSONDecodeError"),
        DeadLetter(3, b"x", running),
        DeadLetter(4, b"x", None, "2 faults", newer=True),
    )
    keeper = sweeper(stores, publisher, clock, letters)
    await keeper.tick()
    job = await stores.jobs.get("public", message.job_id)
    assert (job.status, job.failure and job.failure.code) == (JobStatus.FAILED, "dead_lettered")
    assert [letter.tag for letter in letters.kept] == [2]
    assert [letter.tag for letter in letters.waiting] == [3, 4], (
        "a worker has it, or only a newer version can read it"
    )
    clock.advance(11)
    await keeper.tick()
    assert (await stores.jobs.get("public", running.job_id)).status is JobStatus.FAILED
    assert [letter.tag for letter in letters.waiting] == [4]


async def test_pictures_are_deleted_beside_the_ticks_until_none_is_left(
    stores: Stores, publisher: RecordingPublisher, clock: StoreClock, tmp_path: Path
) -> None:
    going, left = asyncio.Event(), [10_000, 10_000, 0]

    class Full(DirectoryBlobStore):
        async def prune(self, older_than_s: float, max_bytes: int | None) -> int:
            await going.wait()
            return left.pop(0)

    keeper = Sweeper(stores.jobs, Full(tmp_path, clock), publisher, None, BackendSettings(), clock, 1.0)
    late = new(ttl_s=5)
    await keeper.tick()
    await stores.jobs.submit(late)
    clock.advance(6)
    await keeper.tick()
    assert (await stores.jobs.get("public", late.id)).status is JobStatus.EXPIRED, (
        "while the pictures are looked through"
    )
    before = deleted()
    going.set()
    async with asyncio.timeout(10):
        while left:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert deleted() - before == 20_000
    await keeper.close()


@pytest.mark.parametrize("hour_s", [-3600.0, 3600.0], ids=["back", "forward"])
async def test_a_clock_of_the_store_that_was_set_moves_what_the_store_remembers(
    stores: Stores, publisher: RecordingPublisher, clock: StoreClock, hour_s: float
) -> None:
    theirs, ours = clock, ManualClock()
    job = (await stores.jobs.submit(new(ttl_s=60))).job
    tidy = sweeper(stores, publisher, ours)
    await tidy.tick()
    for seconds, stands in ((1.0, JobStatus.QUEUED), (50.0, JobStatus.QUEUED), (10.0, JobStatus.EXPIRED)):
        theirs.advance(seconds + (hour_s if seconds == 1.0 else 0.0))
        ours.advance(seconds)
        await tidy.tick()
        assert (await stores.jobs.get("public", job.id)).status is stands
    assert (await stores.jobs.get("public", job.id)).deadline == pytest.approx(job.deadline + hour_s)


async def test_a_call_that_was_late_tells_nothing_of_the_clock(
    stores: Stores, publisher: RecordingPublisher, clock: StoreClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the store was stopped: it carries out what it was sent half a minute later."""
    told: list[float | None] = []

    async def late(shard: str, elapsed_s: float | None) -> float:
        told.append(elapsed_s)
        if len(told) == 1:
            clock.advance(30)
        return 0.0

    monkeypatch.setattr(stores.jobs, "steady", late)
    tidy = sweeper(stores, publisher, clock)
    await tidy.tick()
    clock.advance(1)
    await tidy.tick()
    assert told[1] is None
    clock.advance(1)
    await tidy.tick()
    assert told[2] == pytest.approx(1.0, abs=0.01)

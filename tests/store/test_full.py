"""A Redis at its `maxmemory`: nothing new is taken, in the right words, and everything accepted ends."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from backends.redis_client import connect, store_errors
from cli.services.redis import RedisServer
from contracts.errors import StoreFull, StoreUnavailable
from contracts.ids import SHARDS, shard_of
from contracts.jobs import JobStatus, Webhook
from contracts.models import WorkerInfo
from contracts.settings import BackendSettings
from contracts.tenancy import Reservation
from contracts.transitions import End, Finished
from contracts.webhooks import EVENTS, Attempt, Call, DeliveryStatus
from store.jobs import RedisJobStore
from store.layout import LAYOUT_KEY, require_layout
from store.model_directory import PREFIX
from store.stores import Stores, open_stores
from telemetry import metrics
from tests.store.made import FAILURE, claimed, led, new, record, result, status, taken
from tests.store.test_versions import SPEC

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stores(anyio_backend: str, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Stores]:
    settings = BackendSettings(redis_url=redis_server.url, blob_dir=tmp_path, lease_s=5.0, worker_ttl_s=30.0)
    with redis.Redis(port=redis_server.port) as client:
        client.flushall()
    opened = open_stores(settings)
    yield opened
    await opened.close()


@pytest.fixture
def full(redis_server: RedisServer) -> Iterator[Callable[[], None]]:
    """Puts the server past its limit, until the test ends."""
    with at_its_limit(redis_server) as fill:
        yield fill


@contextmanager
def at_its_limit(server: RedisServer) -> Iterator[Callable[[], None]]:
    with redis.Redis(port=server.port) as client:
        try:
            yield lambda: client.config_set("maxmemory", 1)
        finally:
            client.config_set("maxmemory", 0)


@pytest.mark.parametrize(
    "write",
    [
        lambda stores: stores.jobs.submit(new()),
        lambda stores: stores.jobs.submit(new(), result()),
        lambda stores: stores.results.put("address", result()),
        lambda stores: stores.idempotency.reserve("public", "k", Reservation(fingerprint="f", new=new())),
        lambda stores: stores.webhooks.secrets("public"),
    ],
    ids=["job", "hit", "result", "idempotency key", "secret"],
)
async def test_what_is_new_is_refused_in_the_right_words(
    stores: Stores, full: Callable[[], None], write: Callable[[Stores], Awaitable[object]]
) -> None:
    full()
    with pytest.raises(StoreFull) as refused:
        await write(stores)
    assert refused.value.code == "store_full"
    assert "full" in refused.value.message
    assert "did not answer" not in refused.value.message
    assert refused.value.retry_after_s is not None


async def test_what_is_accepted_ends(stores: Stores, full: Callable[[], None]) -> None:
    jobs = stores.jobs
    lease = await led(jobs, new("1" * 64))
    follower = (await jobs.submit(new("1" * 64))).job
    failing = await led(jobs, new("2" * 64))
    promoted = (await jobs.submit(new("2" * 64))).job
    expiring, given_back = await led(jobs, new("3" * 64)), await led(jobs, new("4" * 64))
    canceled, withdrawn, waiting = [(await jobs.submit(new(digit * 64))).job for digit in "567"]
    full()
    assert await jobs.renew([lease]) == []
    assert await jobs.progress(lease, 1, 2)
    assert (await jobs.succeed(lease, result())).applied
    assert await status(jobs, follower.id) is JobStatus.SUCCEEDED
    assert [each.job_id for each in (await jobs.fail(failing, FAILURE)).promoted] == [promoted.id]
    assert (await jobs.expire(expiring)).applied
    assert await jobs.release(given_back)
    assert (await jobs.cancel("public", canceled.id))[1].applied
    assert (await jobs.withdraw(withdrawn.id)).applied
    # A worker takes what waits, by the order of the store or by a message.
    found = {each.message.job_id: each.lease for each in await taken(jobs, 9)}
    assert set(found) == {promoted.id, waiting.id, given_back.job_id}
    for each in found.values():
        assert (await jobs.succeed(each, result())).applied


async def test_a_message_is_claimed_and_jobs_expire_by_the_sweep(
    stores: Stores, full: Callable[[], None]
) -> None:
    jobs = stores.jobs
    assert isinstance(jobs, RedisJobStore)
    by_message, late = new("8" * 64), new("9" * 64, ttl_s=5.0)
    for job in (by_message, late):
        await jobs.submit(job)
    full()
    lease = await claimed(jobs, by_message.id)
    assert (await jobs.succeed(lease, result())).applied
    assert await jobs.take_sweeper_lease("this one", 3.0)
    for shard in SHARDS:
        assert await jobs.steady(shard, None) == 0.0
    jobs.skew_s = 6.0
    await jobs.sweep(shard_of(late.id), 100)
    assert await status(jobs, late.id) is JobStatus.EXPIRED


async def test_a_process_that_starts_ends_what_is_accepted(
    stores: Stores, full: Callable[[], None], redis_server: RedisServer, tmp_path: Path
) -> None:
    late = new("9" * 64, ttl_s=5.0)
    waiting = [new(digit * 64) for digit in "12"]
    for job in (*waiting, late):
        await stores.jobs.submit(job)
    full()
    settings = BackendSettings(redis_url=redis_server.url, blob_dir=tmp_path, lease_s=5.0)
    await require_layout(settings)
    for shards in (1, None):
        started = open_stores(settings.model_copy(update={"store_shards": shards}))
        jobs = started.jobs
        assert isinstance(jobs, RedisJobStore)
        (mine,) = await taken(jobs, 1)
        assert await jobs.renew([mine.lease]) == []
        assert (await jobs.succeed(mine.lease, result())).applied
        assert await jobs.take_sweeper_lease("this one", 3.0)
        await started.close()
        with redis.Redis(port=redis_server.port) as client:
            client.delete(LAYOUT_KEY)  # a store that was emptied, or is of before
    started = open_stores(settings)
    jobs = started.jobs
    assert isinstance(jobs, RedisJobStore)
    jobs.skew_s = 6.0
    await jobs.sweep(shard_of(late.id), 100)
    assert await status(jobs, late.id) is JobStatus.EXPIRED
    with pytest.raises(StoreFull):
        await jobs.submit(new("3" * 64))
    await started.close()


async def test_a_webhook_that_is_owed_is_sent(stores: Stores, full: Callable[[], None]) -> None:
    hook = Webhook(url="https://receiver.example/", events=EVENTS)
    job = new().model_copy(update={"webhook": hook})
    lease = await led(stores.jobs, job)
    await stores.webhooks.secrets("public")
    full()
    await stores.jobs.succeed(lease, result())
    (call,) = await stores.webhooks.take(shard_of(job.id), 9, 60.0)
    assert call == Call(job_id=job.id, attempt=1)
    assert await stores.webhooks.begin(call, 60.0) is not None
    await stores.webhooks.defer(call, 0.0)
    assert await stores.webhooks.begin(call, 60.0) is not None
    attempt = Attempt(at=time.time(), duration_ms=1.0, status_code=200)
    assert await stores.webhooks.settle(call, attempt, DeliveryStatus.DELIVERED, None)


async def test_a_worker_does_not_look_gone(
    stores: Stores, redis_server: RedisServer, full: Callable[[], None]
) -> None:
    worker = WorkerInfo(id="w1", model="m", started_at=time.time())
    await stores.models.announce(SPEC, worker)
    with redis.Redis(port=redis_server.port) as client:
        client.pexpire(f"{PREFIX}worker:w1", 10_000)
        full()
        with pytest.raises(StoreFull):
            await stores.models.announce(SPEC, worker)
        left_ms = client.pttl(f"{PREFIX}worker:w1")
    assert isinstance(left_ms, int)
    assert left_ms > 20_000, "the announcement lives as long as a new one"
    (served,) = (await stores.models.models()).models
    assert [each.id for each in served.workers] == ["w1"]


@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_script_of_an_older_server_says_it_in_other_words(wrapped: bool) -> None:
    """Redis 6.2 wraps the error: `ERR Error running script (call to f_...): @user_script:1: -OOM command not allowed ...`."""
    words = "OOM command not allowed when used memory > 'maxmemory'."
    error = redis.ResponseError(f"Error running script: @user_script: 1: -{words}" if wrapped else words)
    with pytest.raises(StoreFull):
        async with store_errors("job store", 1.0):
            raise error


async def test_a_server_that_is_away_is_not_full(tmp_path: Path) -> None:
    client = connect("redis://127.0.0.1:1/0", 0.5)
    with pytest.raises(StoreUnavailable) as away:
        async with store_errors("job store", 0.5):
            await client.ping()
    assert away.value.code == "store_unavailable"
    await client.aclose()


async def test_at_the_limit_a_job_ends_and_its_pictures_are_not_recorded(
    stores: Stores, full: Callable[[], None]
) -> None:
    """They may be found by nobody: the job is more. Without a cached result nothing else is written first."""
    job = new()
    lease = await led(stores.jobs, job)
    lost = metrics.EMBEDDINGS.labels("no_room")._value.get()
    full()
    (answer,) = await stores.jobs.end_many([End(lease, result(), None, (record(job, 1), record(job, 2)))])
    assert answer == Finished(applied=True)
    assert await status(stores.jobs, job.id) is JobStatus.SUCCEEDED
    assert await stores.pictures.read([job.id]) == []
    assert await stores.pictures.owed() == 0
    assert metrics.EMBEDDINGS.labels("no_room")._value.get() - lost == 2


async def test_at_the_limit_the_index_is_served_and_pictures_are_erased(
    stores: Stores, full: Callable[[], None]
) -> None:
    job = new()
    await stores.jobs.end_many([End(await led(stores.jobs, job), result(), None, (record(job, 1),))])
    full()
    store = stores.pictures
    (shard,) = store.shards
    assert await store.take(shard, 9, 60.0) == [job.id]
    assert len(await store.read([job.id])) == 1
    assert await store.settle([job.id]) == []
    assert await store.erase(job.id) == 1
    (unwanted,) = await store.take_unwanted(shard, 9, 60.0)
    await store.settle_unwanted([unwanted])
    await store.forget("public", [unwanted.name])
    assert await store.owed() == 1

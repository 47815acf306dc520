"""What a kept job costs in Redis, measured: the table of docs/operations.md says so, and the bound by tenant reckons with it."""

from __future__ import annotations

import re
import secrets
import statistics
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
import redis

from api.idempotency import Slot
from api.store_quota import IDEMPOTENCY_KEY, kept_bytes
from cli.services.redis import RedisServer
from contracts.ids import new_job_id
from contracts.jobs import ImageRef, Job, JobResult, NewJob, Origin, Timings, Webhook
from contracts.requests import GenerationRequest
from contracts.settings import BackendSettings
from contracts.tenancy import Reservation
from contracts.transitions import Granted
from contracts.webhooks import EVENTS
from store.stores import Stores, open_stores

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

JOBS: Final = 400
TOLERANCE: Final = 0.15
DOCS: Final = Path(__file__).parents[2] / "docs" / "operations.md"
WORDS: Final = " ".join((Path(__file__).parents[2] / "LICENSE").read_text().split())
"""English that does not change from one release to the next."""
RESULT_TIMINGS: Final = Timings(queued_ms=153.1, batch_ms=421.7, encode_ms=13.9, batch_size=4)


def request(prompt: str, negative: str = "") -> GenerationRequest:
    return GenerationRequest(
        model="sd-turbo",
        prompt=prompt,
        negative_prompt=negative,
        width=512,
        height=512,
        num_inference_steps=1,
        guidance_scale=0.0,
        seed=secrets.randbelow(2**53),
        model_revision="b261bac6fd2cf515557d5d0707481eafa0485ec2",
    )


def job(asked: GenerationRequest, **more: object) -> NewJob:
    key = secrets.token_hex(32)
    origin = Origin(request_id="req_" + secrets.token_hex(10))
    made = NewJob(id=new_job_id(0.0, key[0]), tenant="acme", key=key, request=asked, ttl_s=300, origin=origin)
    # Ids begin with their time, which is the same for all: what follows is by chance.
    return made.model_copy(update=more)


def pictures() -> JobResult:
    name = secrets.token_hex(32) + ".png"
    image = ImageRef(name=name, width=512, height=512, seed=7, content_type="image/png", size_bytes=412_345)
    return JobResult(images=(image,), timings=RESULT_TIMINGS)


def prompt() -> str:
    return f"a red apple on a wooden table, soft light, oil on canvas, number {secrets.randbelow(10**6)}"


def long_text() -> str:
    """Two thousand characters of English."""
    begin = secrets.randbelow(len(WORDS) - 2000)
    return WORDS[begin : begin + 2000]


async def hit(stores: Stores) -> Job:
    return (await stores.jobs.submit(job(request(prompt())), pictures())).job


async def computed(stores: Stores, new: NewJob | None = None) -> Job:
    new = new or job(request(prompt()))
    submitted = await stores.jobs.submit(new)
    await stores.jobs.confirm(new.id)
    claim = await stores.jobs.claim(submitted.job.message(), "worker-1")
    assert isinstance(claim, Granted)
    done = pictures()
    await stores.jobs.succeed(claim.lease, done)
    await stores.results.put(f"acme.sd-turbo.{new.key}", done)
    return submitted.job


async def waiting(stores: Stores) -> Job:
    return (await stores.jobs.submit(job(request(prompt())))).job


async def long_texts(stores: Stores) -> Job:
    return await computed(stores, job(request(long_text(), long_text())))


async def with_idempotency_key(stores: Stores) -> Job:
    new = job(request(prompt()))
    slot = Slot("acme", secrets.token_hex(16), secrets.token_hex(32))
    await stores.idempotency.reserve("acme", slot.key, Reservation(fingerprint=slot.fingerprint, new=new))
    made = await computed(stores, new)
    await slot.complete(stores.idempotency, new)
    return made


async def with_webhook(stores: Stores) -> Job:
    hook = Webhook(url=f"https://receiver.example/hooks/{secrets.token_hex(16)}", events=EVENTS)
    return await computed(stores, job(request(prompt()), webhook=hook))


KINDS: Final = {
    "a cache hit": hit,
    "a job that waits": waiting,
    "a computed job, with its cached result": computed,
    "the same, with an `Idempotency-Key`": with_idempotency_key,
    "the same, with a webhook": with_webhook,
    "the same, with two texts of 2,000 characters": long_texts,
}


@pytest.fixture
async def stores(anyio_backend: str, memory_server: RedisServer, tmp_path: Path) -> AsyncIterator[Stores]:
    settings = BackendSettings(redis_url=memory_server.url, blob_dir=tmp_path, redis_timeout_s=20.0)
    with redis.Redis(port=memory_server.port) as client:
        client.flushall()
    opened = open_stores(settings)
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
def memory_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One that nothing else uses, for what it holds is measured."""
    server = RedisServer(tmp_path_factory.mktemp("memory"), options=("--appendonly", "no"))
    server.start()
    yield server
    server.stop()


def used(client: redis.Redis) -> int:
    """Bytes that hold data: what each client's buffers take comes and goes."""
    told = client.memory_stats()
    return (
        int(told["dataset.bytes"])
        + int(told["db.0"]["overhead.hashtable.main"])
        + int(told["db.0"]["overhead.hashtable.expires"])
    )


def documented(server: str = "Redis 7") -> dict[str, float]:
    """Kilobytes by kind, of a server's column of the table."""
    text = DOCS.read_text()
    heads = re.search(r"^\| what is kept \| (.*) \|$", text, re.MULTILINE)
    assert heads is not None
    column = heads[1].split(" | ").index(server)
    rows = re.findall(r"^\| (a .*?|the same, .*?)((?: \| [\d.]+ kB){3}) \|$", text, re.MULTILINE)
    return {kind: float(cells.split(" kB")[column].lstrip(" |")) for kind, cells in rows}


def column_of(told: dict[str, object]) -> str:
    """The column of the server that told this by `INFO`. Valkey, of any version, calls itself a Redis 7 as well."""
    if "valkey_version" in told:
        return "Valkey 9"
    return "Redis 8" if int(str(told["redis_version"]).split(".")[0]) >= 8 else "Redis 7"


def test_the_table_names_these_kinds() -> None:
    assert set(documented()) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_job_takes_what_the_table_says(stores: Stores, memory_server: RedisServer, kind: str) -> None:
    make = KINDS[kind]
    with redis.Redis(port=memory_server.port, decode_responses=True) as client:
        for _ in range(50):  # lists and scripts that are there once
            await make(stores)
        before = used(client)
        made = [await make(stores) for _ in range(JOBS)]
        kilobytes = (used(client) - before) / JOBS / 1000
        column = column_of(client.info("server"))
    print(f"{kind}: {kilobytes:.2f} kB")
    assert kilobytes == pytest.approx(documented(column)[kind], rel=TOLERANCE)
    if kind == "a job that waits":
        return  # it is counted as what it will be
    counted = statistics.mean(map(kept_bytes, made)) + IDEMPOTENCY_KEY * ("Idempotency" in kind)
    print(f"counted as {counted / 1000:.2f} kB")
    # The bound reckons with Redis 7.
    assert counted / 1000 == pytest.approx(documented()[kind], rel=TOLERANCE)

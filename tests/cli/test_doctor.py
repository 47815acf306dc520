"""`darkroom doctor` and `/readyz` against real servers that answer and are of no use: each is told for what it is."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from cli.main import app
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer
from contracts.errors import StoreUnavailable
from contracts.models import WorkerInfo
from contracts.settings import BackendSettings
from store.stores import open_stores
from tests.store.test_others import spec

pytestmark = pytest.mark.slow
Doctor = Callable[..., Result]


@pytest.fixture
def doctor(
    monkeypatch: pytest.MonkeyPatch, own: RedisServer, rabbit_server: RabbitServer, tmp_path: Path
) -> Doctor:
    monkeypatch.setenv("DARKROOM_REDIS_URL", own.url)
    monkeypatch.setenv("DARKROOM_BROKER_URL", rabbit_server.url)
    monkeypatch.setenv("DARKROOM_BLOB_DIR", str(tmp_path / "blobs"))

    def run(**environ: str) -> Result:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(app, ["doctor"])

    return run


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of this test alone, that saves snapshots and so can fail to."""
    server = RedisServer(tmp_path / "redis", options=["--save", "3600", "1"])
    server.start()
    yield server
    server.stop()


def faults(done: Result) -> str:
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 1, done.output
    return "\n".join(line for line in done.output.splitlines() if "ok" not in line.split()[:1])


def readiness(url: str) -> str:
    """What `/readyz` says of the job store."""

    async def check() -> None:
        stores = open_stores(BackendSettings(redis_url=url))
        try:
            await stores.check()
        finally:
            await stores.close()

    with pytest.raises(StoreUnavailable) as told:
        asyncio.run(check())
    return told.value.message


def test_a_replica(doctor: Doctor, own: RedisServer, tmp_path: Path) -> None:
    replica = RedisServer(tmp_path / "replica")
    replica.start()
    try:
        with redis.Redis(port=replica.port) as client:
            client.replicaof("127.0.0.1", own.port)
            until = time.monotonic() + 30
            while client.info("replication")["master_link_status"] != "up":
                assert time.monotonic() < until
                time.sleep(0.05)
        said = faults(doctor(DARKROOM_REDIS_URL=replica.url))
        assert "is a replica that takes no writes" in said
        assert "redis+sentinel://" in said
        assert "takes no writes" in readiness(replica.url)
    finally:
        replica.stop()


def test_a_worker_without_the_policy_of_the_api(
    doctor: Doctor, own: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def announce() -> None:
        stores = open_stores(BackendSettings(redis_url=own.url, blob_dir=tmp_path / "blobs"))
        try:
            worker = WorkerInfo(id="w1", model="m", started_at=1.0, policy="house@1")
            await stores.models.announce(spec("m"), worker)
        finally:
            await stores.close()

    asyncio.run(announce())
    policy = tmp_path / "policy.yaml"
    policy.write_text("name: shop\nversion: 1\nrules: {weapons: {pictures: block}}\n")
    told = faults(doctor(DARKROOM_MODERATION=str(policy)))
    assert "worker w1 of m has the policy house@1, and DARKROOM_MODERATION here has shop@1" in told


def test_a_wrong_redis_password(doctor: Doctor, own: RedisServer) -> None:
    with redis.Redis(port=own.port) as client:
        client.config_set("requirepass", "right")
    for wrong in (own.url, own.url.replace("//", "//:wrong@"), own.url.replace("//", "//nobody:right@")):
        said = faults(doctor(DARKROOM_REDIS_URL=wrong))
        assert "refuses this user or password" in said, said
        assert "start Redis" not in said
        assert readiness(wrong) == "The job store refuses this user or password."


@pytest.mark.parametrize(
    "rights",
    [
        ("~darkroom:*", "&darkroom:*", "+@all", "-@write"),
        ("~other:*", "&darkroom:*", "+@all"),
        ("~darkroom:*", "resetchannels", "+@all"),
    ],
    ids=["no writes", "other keys", "no channels"],
)
def test_a_redis_user_that_may_too_little(doctor: Doctor, own: RedisServer, rights: tuple[str, ...]) -> None:
    with redis.Redis(port=own.port) as client:
        client.execute_command("ACL", "SETUSER", "few", "on", ">pass", *rights)
    url = own.url.replace("//", "//few:pass@")
    said = faults(doctor(DARKROOM_REDIS_URL=url))
    assert "does not let this user do what is needed" in said
    assert "docs/security.md" in said
    assert "does not let this user" in readiness(url)


def test_a_redis_that_cannot_write_to_its_disk(doctor: Doctor, own: RedisServer) -> None:
    """A snapshot cannot take the name of a folder: as on a full disk, Redis then refuses all writes."""
    (own.folder / "dump.rdb").mkdir()
    with redis.Redis(port=own.port) as client:
        client.set("a", "b")
        client.bgsave()
        until = time.monotonic() + 30
        while client.info("persistence")["rdb_last_bgsave_status"] == "ok":
            assert time.monotonic() < until
            time.sleep(0.05)
    said = faults(doctor())
    assert "cannot write to its disk" in said
    assert "make room on the disk of Redis" in said
    assert "cannot write to its disk" in readiness(own.url)
    # A Redis that cannot save does not end when it is asked to.
    (own.folder / "dump.rdb").rmdir()


def test_a_wrong_rabbitmq_password(doctor: Doctor, rabbit_server: RabbitServer) -> None:
    said = faults(doctor(DARKROOM_BROKER_URL=rabbit_server.url.replace("guest:guest", "guest:wrong")))
    assert "the broker refuses this user or password" in said
    assert "start it" not in said


def test_a_virtual_host_that_is_not_there(doctor: Doctor, rabbit_server: RabbitServer) -> None:
    said = faults(doctor(DARKROOM_BROKER_URL=rabbit_server.url.removesuffix("/") + "nowhere"))
    assert "no such virtual host" in said
    assert "start it" not in said


def test_a_rabbitmq_user_that_may_too_little(doctor: Doctor, rabbit_server: RabbitServer) -> None:
    rabbit_server.control("add_user", "few", "pass")
    try:
        rabbit_server.control("set_permissions", "few", "^darkroom", "^darkroom", "^darkroom")
        said = faults(doctor(DARKROOM_BROKER_URL=rabbit_server.url.replace("guest:guest", "few:pass")))
    finally:
        rabbit_server.control("delete_user", "few")
    assert "does not let this user do what is needed" in said
    assert "amq.default" in said


def test_a_broker_whose_disk_is_full(doctor: Doctor, rabbit_server: RabbitServer) -> None:
    rabbit_server.control("set_disk_free_limit", "1000000GB")
    try:
        until = time.monotonic() + 30
        while (done := doctor()).exit_code == 0:
            assert time.monotonic() < until
        said = faults(done)
    finally:
        rabbit_server.control("set_disk_free_limit", "1MB")
    assert "the broker accepts no messages" in said
    assert "the broker does not answer" not in said
    assert "make room on its disk" in said


def test_no_room_for_pictures(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("backends.blobs.os.fsync", full)
    said = faults(doctor())
    assert "a larger disk" in said
    assert "writable" not in said


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("DARKROOM_REDIS_URL", "http://127.0.0.1:6379"),
        ("DARKROOM_REDIS_URL", "127.0.0.1:6379"),
        ("DARKROOM_CACHE_REDIS_URL", "redis+cluster://127.0.0.1"),
        ("DARKROOM_BROKER_URL", "http://127.0.0.1:15672"),
        ("DARKROOM_BROKER_URL", "redis+sentinel://127.0.0.1:26379/main"),
        ("DARKROOM_BROKER_URL", "amqp+foo://127.0.0.1"),
        ("DARKROOM_BLOB_S3_ENDPOINT", "s3://bucket"),
    ],
)
def test_a_url_of_another_scheme_is_told_and_no_traceback(doctor: Doctor, name: str, url: str) -> None:
    done: Any = doctor(**{name: url})
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    assert name in done.output + done.stderr

"""`darkroom backup` and `darkroom restore` against real servers: what comes back, and what is refused with nothing written.
`tests/faults` rehearses the loss of a whole platform under load (row 47)."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from typer.testing import CliRunner, Result

from cache.audit import audit
from cache.blobs import blob_name
from cache.connection import connect, disconnect
from cache.stores import Stores, open_stores
from cli import archive
from cli.main import app
from cli.services import process
from cli.services.rabbitmq import RabbitServer, find_script
from cli.services.redis import RedisServer
from contracts.jobs import JobStatus, Webhook
from contracts.models import WorkerInfo
from contracts.settings import BackendSettings, WorkerSettings
from contracts.tenancy import ApiKey, Scope
from tests.cache.made import led, new, result
from worker.engine.fake import FakeEngine

pytestmark = pytest.mark.slow
Command = Callable[..., Result]
ROOT = Path(__file__).parents[2]
PICTURE = b"\x89PNG a red apple"
INPUT = b"a picture to start from"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that sends its snapshots at once."""
    one = RedisServer(tmp_path_factory.mktemp("server"), options=("--repl-diskless-sync-delay", "0"))
    one.start()
    yield one
    one.stop()


@pytest.fixture
def url(server: RedisServer) -> str:
    with redis.Redis(port=server.port) as client:
        client.flushall()
        client.config_set("maxmemory", "0")
    return server.url.replace("/0", "/2")


@pytest.fixture
def darkroom(monkeypatch: pytest.MonkeyPatch, url: str, tmp_path: Path) -> Command:
    monkeypatch.setenv("DARKROOM_REDIS_URL", url)
    monkeypatch.setenv("DARKROOM_BLOB_DIR", str(tmp_path / "blobs"))

    def run(*arguments: str | Path, **environ: str) -> Result:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backup.tar"


def on(url: str, folder: Path, work: Callable[[Stores], Any], **settings: Any) -> Any:
    """The answer of `work` on the platform's stores."""

    async def run() -> Any:
        stores = open_stores(BackendSettings(redis_url=url, blob_dir=folder / "blobs", **settings))
        try:
            return await work(stores)
        finally:
            await stores.close()

    return asyncio.run(run())


async def lived_in(stores: Stores) -> dict[str, str]:
    """A job that has ended and owes a webhook, one that runs, one that waits and whose message is with the broker, one that
    follows it; a key, a picture. Answers the ids."""
    name = await stores.blobs.put(PICTURE, "png")
    await stores.blobs.put(INPUT, "png", is_input=True)
    owing = new("a" * 64).model_copy(
        update={"webhook": Webhook(url="https://receiver.example/", events=("job.succeeded",))}
    )
    await stores.jobs.succeed(await led(stores.jobs, owing), result(name))
    running = new("b" * 64)
    await led(stores.jobs, running)
    waiting, following = new("c" * 64), new("c" * 64)
    for job in (waiting, following):
        await stores.jobs.submit(job)
    await stores.jobs.confirm(waiting.id)
    await stores.keys.create(
        ApiKey(id="dk_key", tenant="acme", name="", digest="0" * 64, scopes=(Scope.GENERATE,), created_at=1.0)
    )
    return {
        "owing": owing.id,
        "running": running.id,
        "waiting": waiting.id,
        "following": following.id,
        "picture": name,
    }


def lose(url: str, folder: Path) -> None:
    with redis.Redis.from_url(url) as client:
        client.flushall()
    shutil.rmtree(folder / "blobs", ignore_errors=True)


def untouched(url: str, folder: Path) -> bool:
    with redis.Redis.from_url(url) as client:
        return client.dbsize() == 0 and not (folder / "blobs").exists()


def test_what_was_saved_is_there_again(darkroom: Command, url: str, path: Path, tmp_path: Path) -> None:
    ids = on(url, tmp_path, lived_in)
    os.utime(tmp_path / "blobs" / ids["picture"][:2] / ids["picture"], (1e9, 1e9))
    saved = darkroom("backup", path)
    assert saved.exit_code == 0, saved.output
    assert "2 pictures" in saved.output
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []
    lose(url, tmp_path)
    done = darkroom("restore", path)
    assert done.exit_code == 0, done.output
    assert "4 jobs recorded, 3 of them live" in done.output

    async def look(stores: Stores) -> None:
        statuses = await stores.jobs.statuses(
            [ids["owing"], ids["running"], ids["waiting"], ids["following"]]
        )
        assert statuses == [JobStatus.SUCCEEDED, JobStatus.RUNNING, JobStatus.QUEUED, JobStatus.QUEUED]
        ended = await stores.jobs.get("public", ids["owing"])
        assert ended.result is not None
        assert await stores.blobs.get(ended.result.images[0].name) == PICTURE
        assert await stores.blobs.get(blob_name(INPUT, "png", is_input=True)) == INPUT
        assert not await stores.blobs.exists(blob_name(INPUT, "png"))
        key = await stores.keys.find("dk_key")
        assert key is not None
        assert key.tenant == "acme"
        (call,) = await stores.webhooks.take("a", 10, 5.0)
        assert call.job_id == ids["owing"]
        # The broker has lost its message: it is owed again.
        stale, _ = await stores.jobs.sweep("c", 10)
        assert [message.job_id for message in stale] == [ids["waiting"]]

    on(url, tmp_path, look)
    # It is pruned when it would have been.
    assert (tmp_path / "blobs" / ids["picture"][:2] / ids["picture"]).stat().st_mtime == 1e9
    assert not on(url, tmp_path, lambda _: audited(url))


async def audited(url: str) -> list[str]:
    client = connect(url, 2.0)
    try:
        return list((await audit(client, 2.0)).differences)
    finally:
        await disconnect(client)


def test_jobs_past_their_deadline_expire_once(
    darkroom: Command, url: str, path: Path, tmp_path: Path
) -> None:
    ids = on(url, tmp_path, lived_in)
    assert darkroom("backup", path).exit_code == 0
    lose(url, tmp_path)
    assert darkroom("restore", path).exit_code == 0

    async def later(stores: Stores) -> None:
        jobs: Any = stores.jobs
        jobs.skew_s = 120.0
        for _ in range(2):
            for shard in "abc":
                await stores.jobs.sweep(shard, 100)
        live = [ids["running"], ids["waiting"], ids["following"]]
        assert await stores.jobs.statuses(live) == [JobStatus.EXPIRED] * 3

    on(url, tmp_path, later)
    books = darkroom("audit", "--full")
    assert books.exit_code == 0, books.output
    assert "4 recorded = 1 succeeded, 3 expired + 0 live" in books.output


def test_an_rdb_file_will_do(
    darkroom: Command, server: RedisServer, url: str, path: Path, tmp_path: Path
) -> None:
    on(url, tmp_path, lived_in)
    with redis.Redis(port=server.port) as client:
        client.save()
    assert darkroom("backup", path, "--rdb", server.folder / "dump.rdb", "--no-pictures").exit_code == 0
    lose(url, tmp_path)
    done = darkroom("restore", path)
    assert done.exit_code == 0, done.output
    assert "0 pictures" in done.output
    assert "4 jobs recorded" in done.output


def test_standard_output_will_do(darkroom: Command, url: str, path: Path, tmp_path: Path) -> None:
    on(url, tmp_path, lived_in)
    with path.open("wb") as out:
        command = [sys.executable, "-m", "cli.main", "backup", "-"]
        done = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    checked = darkroom("restore", path, "--check", DARKROOM_REDIS_URL="redis://127.0.0.1:9/0")
    assert checked.exit_code == 0, checked.output
    assert "2 pictures" in checked.output


def test_the_newest_archives_of_a_folder_are_kept(
    darkroom: Command, url: str, path: Path, tmp_path: Path
) -> None:
    on(url, tmp_path, lived_in)
    folder = tmp_path / "backups"
    folder.mkdir()
    for name in ("darkroom-20200101T000000Z.tar", "darkroom-20210101T000000Z.tar", "mine.tar"):
        (folder / name).touch()
    done = darkroom("backup", folder, "--keep", "2")
    assert done.exit_code == 0, done.output
    found = sorted(each.name for each in folder.iterdir())
    assert found[0] == "darkroom-20210101T000000Z.tar"
    assert found[2:] == ["mine.tar"]
    assert darkroom("restore", "--check", folder / found[1]).exit_code == 0


def test_what_is_no_whole_archive_writes_nothing(
    darkroom: Command, url: str, path: Path, tmp_path: Path
) -> None:
    on(url, tmp_path, lived_in)
    assert darkroom("backup", path).exit_code == 0
    lose(url, tmp_path)
    whole, manifest = path.read_bytes(), archive.check(path, lambda _: None)
    with tarfile.open(path) as tar:
        members = [(member.name, member.offset_data, member.size) for member in tar]
    assert [name.partition("-")[0].partition("/")[0] for name, _, _ in members] == [
        "state.jsonl.gz",
        "pictures",
        "pictures",
        "manifest",
    ]
    for _, begin, _ in members:
        path.write_bytes(whole[: begin - 512])
        done = darkroom("restore", path)
        assert done.exit_code == 1, done.output
        assert len(done.output.splitlines()) == 1
    for name, begin, size in members:
        for at in (begin, begin + size // 2, begin + size - 1):
            damaged = bytearray(whole)
            damaged[at] ^= 1
            path.write_bytes(damaged)
            done = darkroom("restore", path)
            assert (done.exit_code, "damaged" in done.output) == (1, True), (name, done.output)
            assert len(done.output.splitlines()) == 1
    for _, begin, _ in members:
        passed = 0
        for at in range(begin - 512, begin):
            damaged = bytearray(whole)
            damaged[at] ^= 1
            path.write_bytes(damaged)
            try:
                found = archive.check(path, lambda _: None)
            except archive.ArchiveRefused:
                continue
            passed += 1
            assert found == manifest
        # What ends the header's own checksum says nothing.
        assert passed <= 2
    path.write_bytes(b"no archive at all" * 100)
    assert darkroom("restore", path).exit_code == 1
    assert darkroom("restore", tmp_path / "nowhere.tar").exit_code == 2
    assert untouched(url, tmp_path)


def rewritten(path: Path, change: Callable[[archive.Manifest], None], *more: tuple[str, bytes]) -> None:
    """The archive with another manifest, whole in itself."""
    manifest = archive.check(path, lambda _: None)
    with tarfile.open(path) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    with path.open("wb") as out:
        writer = archive.Writer(out)
        for name, data in [*((name, files[name]) for name in manifest.files), *more]:
            writer.add(name, io.BytesIO(data), len(data))
        changed = manifest.model_copy(update={"files": writer.files})
        change(changed)
        writer.close(changed)


@pytest.mark.parametrize(
    ("change", "more", "words"),
    [
        ({"format": 2}, (), "format 2"),
        ({"keys": 1}, (), "of 1"),
        ({}, (("pictures/../../escape.png", b"x"),), "does not belong"),
        ({}, (("notes.txt", b"x"),), "does not belong"),
        ({}, ((f"{'0' * 64}.png", b"x"),), "does not belong"),
        ({}, ((f"pictures/{'0' * 64}.png", b"x"),), "damaged"),
    ],
)
def test_an_archive_of_another_kind(
    darkroom: Command,
    url: str,
    path: Path,
    tmp_path: Path,
    change: dict[str, Any],
    more: tuple[tuple[str, bytes], ...],
    words: str,
) -> None:
    on(url, tmp_path, lived_in)
    assert darkroom("backup", path).exit_code == 0
    lose(url, tmp_path)

    def changed(manifest: archive.Manifest) -> None:
        for name, value in change.items():
            setattr(manifest, name, value)

    rewritten(path, changed, *more)
    done = darkroom("restore", path)
    assert (done.exit_code, words in done.output) == (1, True), done.output
    assert untouched(url, tmp_path)


def test_a_redis_that_holds_state_is_left_alone(
    darkroom: Command, url: str, path: Path, tmp_path: Path
) -> None:
    ids = on(url, tmp_path, lived_in)
    assert darkroom("backup", path).exit_code == 0
    later = on(url, tmp_path, lambda stores: stores.jobs.submit(new("d" * 64))).job
    refused = darkroom("restore", path)
    assert (refused.exit_code, "--force" in refused.output) == (1, True)
    assert on(url, tmp_path, lambda stores: stores.jobs.statuses([later.id])) == [JobStatus.QUEUED]
    assert darkroom("restore", path, "--force").exit_code == 0
    both = on(url, tmp_path, lambda stores: stores.jobs.statuses([later.id, ids["waiting"]]))
    assert both == [None, JobStatus.QUEUED]
    # A platform that runs would work on what is half there.
    assert on(url, tmp_path, lambda stores: stores.jobs.elect("a sweeper", 60.0))
    running = darkroom("restore", path, "--force")
    assert (running.exit_code, "runs on this Redis" in running.output) == (1, True)


def test_a_platform_that_has_merely_started_is_no_state(
    darkroom: Command, url: str, path: Path, tmp_path: Path
) -> None:
    on(url, tmp_path, lived_in)
    assert darkroom("backup", path).exit_code == 0
    lose(url, tmp_path)
    spec = FakeEngine(WorkerSettings(model="fake"), "fake").load()

    async def started_and_stopped(stores: Stores) -> None:
        worker = WorkerInfo(id="w1", model="fake", started_at=1.0)
        await stores.models.announce(spec, worker)
        await stores.models.withdraw(worker)

    on(url, tmp_path, started_and_stopped)
    done = darkroom("restore", path)
    assert done.exit_code == 0, done.output


def test_a_redis_that_is_too_small(
    darkroom: Command, server: RedisServer, url: str, path: Path, tmp_path: Path
) -> None:
    on(url, tmp_path, lived_in)
    assert darkroom("backup", path).exit_code == 0
    lose(url, tmp_path)
    with redis.Redis(port=server.port) as client:
        client.config_set("maxmemory", "500kb")
    done = darkroom("restore", path)
    assert (done.exit_code, "maxmemory" in done.output) == (1, True), done.output
    assert untouched(url, tmp_path)


def test_settings_that_have_changed_are_told_and_secrets_are_not_kept(
    darkroom: Command, url: str, path: Path, tmp_path: Path
) -> None:
    on(url, tmp_path, lived_in)
    with_secret = url.replace("redis://", "redis://default:hunter2@")
    with redis.Redis.from_url(url) as client:
        client.config_set("requirepass", "hunter2")
    try:
        assert darkroom("backup", path, DARKROOM_REDIS_URL=with_secret).exit_code == 0
        assert b"hunter2" not in path.read_bytes()
        done = darkroom("restore", path, "--force", DARKROOM_QUEUE_MAX_LENGTH="7")
    finally:
        with redis.Redis.from_url(with_secret) as client:
            client.config_set("requirepass", "")
    assert "DARKROOM_QUEUE_MAX_LENGTH was 100000 and is 7." in done.output


def test_services_that_are_away_are_one_line(darkroom: Command, path: Path, tmp_path: Path) -> None:
    away = darkroom(
        "backup", path, DARKROOM_REDIS_URL="redis://127.0.0.1:9/0", DARKROOM_REDIS_TIMEOUT_S="0.5"
    )
    assert (away.exit_code, len(away.output.splitlines())) == (2, 1), away.output
    assert not path.exists()
    path.touch()
    exists = darkroom("backup", path)
    assert (exists.exit_code, "exists already" in exists.output) == (1, True)
    nowhere = darkroom("backup", tmp_path / "no" / "folder.tar")
    assert (nowhere.exit_code, "written to" in nowhere.output) == (2, True), nowhere.output


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[tuple[RabbitServer, str]]:
    """A RabbitMQ of its own, with its management API, and where that is."""
    server = RabbitServer(tmp_path / "rabbitmq")
    server.start()
    try:
        port = process.free_port()
        listener = f'[{{port, {port}}}, {{ip, "127.0.0.1"}}]'
        server.control("eval", f"application:set_env(rabbitmq_management, listener, {listener}).")
        plugins = find_script("rabbitmq-plugins")
        assert plugins is not None
        command = [plugins, "enable", "rabbitmq_management"]
        subprocess.run(command, env=server._environ, check=True, capture_output=True)
        yield server, f"http://guest:guest@127.0.0.1:{port}"
    finally:
        server.stop()


def test_rabbitmqs_definitions(
    darkroom: Command, broker: tuple[RabbitServer, str], url: str, path: Path, tmp_path: Path
) -> None:
    server, api = broker
    on(url, tmp_path, lived_in)
    server.control("add_vhost", "images")
    server.control("add_user", "darkroom", "secret")
    server.control("set_policy", "-p", "images", "all", "^darkroom", '{"max-length": 7}')
    assert darkroom("backup", path, "--rabbitmq-api", api).exit_code == 0
    lose(url, tmp_path)
    server.control("delete_vhost", "images")
    server.control("delete_user", "darkroom")
    without = darkroom("restore", path)
    assert (without.exit_code, "--rabbitmq-api" in without.output) == (0, True), without.output
    lose(url, tmp_path)
    done = darkroom("restore", path, "--rabbitmq-api", api)
    assert done.exit_code == 0, done.output
    told = httpx.get(f"{api}/api/policies/images/all").json()
    assert json.dumps(told["definition"]) == '{"max-length": 7}'
    server.control("authenticate_user", "darkroom", "secret")
    lose(url, tmp_path)
    refused = darkroom("restore", path, "--rabbitmq-api", api.replace(":guest@", ":wrong@"))
    assert (refused.exit_code, len(refused.output.splitlines())) == (1, 2), refused.output
    assert untouched(url, tmp_path)

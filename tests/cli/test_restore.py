"""`darkroom restore` against a real server: what is refused with nothing written, and what is restored."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from cli import archive
from cli.services.redis import RedisServer
from contracts.jobs import JobStatus
from contracts.models import WorkerInfo
from contracts.settings import WorkerSettings
from store.stores import Stores
from tests.cli.archives import Command, lived_in, lose, on, untouched
from tests.cli.archives import darkroom as darkroom
from tests.cli.archives import path as path
from tests.cli.archives import server as server
from tests.cli.archives import url as url
from tests.store.made import new
from worker.engine.fake import FakeEngine

pytestmark = pytest.mark.slow


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
    balance = darkroom("audit", "--full")
    assert balance.exit_code == 0, balance.output
    assert "4 recorded = 1 succeeded, 3 expired + 0 live" in balance.output


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
        ({}, (("pictures/../../escape.png", b"x"),), "not a backup"),
        ({}, (("notes.txt", b"x"),), "not a backup"),
        ({}, ((f"{'0' * 64}.png", b"x"),), "not a backup"),
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
    assert on(url, tmp_path, lambda stores: stores.jobs.take_sweeper_lease("a sweeper", 60.0))
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

"""`darkroom backup` and `darkroom restore` against real servers: what comes back, and what is refused with nothing written.
`tests/faults` rehearses the loss of a whole platform under load (row 47)."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from backends.blobs import blob_name
from backends.redis_client import connect, disconnect
from cli.services import process
from cli.services.rabbitmq import RabbitServer, find_script
from cli.services.redis import RedisServer
from contracts.jobs import JobStatus
from store.audit import audit
from store.stores import Stores
from tests.cli.archives import INPUT, PICTURE, Command, lived_in, lose, on, untouched
from tests.cli.archives import darkroom as darkroom
from tests.cli.archives import path as path
from tests.cli.archives import server as server
from tests.cli.archives import url as url

pytestmark = pytest.mark.slow


ROOT = Path(__file__).parents[2]


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
    assert (nowhere.exit_code, "writable" in nowhere.output) == (2, True), nowhere.output


@pytest.fixture
def rabbitmq_api(tmp_path: Path) -> Iterator[str]:
    """A RabbitMQ of its own, and its management API."""
    port = process.free_port()
    listener = f"management.tcp.port = {port}\nmanagement.tcp.ip = 127.0.0.1\n"
    server = RabbitServer(tmp_path / "rabbitmq", listener)
    server.start()
    try:
        plugins = find_script("rabbitmq-plugins")
        assert plugins is not None
        command = [plugins, "enable", "rabbitmq_management"]
        subprocess.run(command, env=server._environ, check=True, capture_output=True)
        yield f"http://guest:guest@127.0.0.1:{port}"
    finally:
        server.stop()


def test_rabbitmqs_definitions(
    darkroom: Command, rabbitmq_api: str, url: str, path: Path, tmp_path: Path
) -> None:
    api = rabbitmq_api
    user = ("darkroom", "secret")
    on(url, tmp_path, lived_in)
    with httpx.Client(base_url=f"{api}/api") as made:
        made.put("/vhosts/images").raise_for_status()
        made.put("/users/darkroom", json={"password": user[1], "tags": "management"}).raise_for_status()
        policy = {"pattern": "^darkroom", "definition": {"max-length": 7}}
        made.put("/policies/images/all", json=policy).raise_for_status()
        assert made.get("/whoami", auth=user).status_code == 200
    assert darkroom("backup", path, "--rabbitmq-api", api).exit_code == 0
    lose(url, tmp_path)
    with httpx.Client(base_url=f"{api}/api") as lost:
        lost.delete("/vhosts/images").raise_for_status()
        lost.delete("/users/darkroom").raise_for_status()
        assert lost.get("/whoami", auth=user).status_code == 401
    without = darkroom("restore", path)
    assert (without.exit_code, "--rabbitmq-api" in without.output) == (0, True), without.output
    lose(url, tmp_path)
    done = darkroom("restore", path, "--rabbitmq-api", api)
    assert done.exit_code == 0, done.output
    told = httpx.get(f"{api}/api/policies/images/all").json()
    assert json.dumps(told["definition"]) == '{"max-length": 7}'
    assert httpx.get(f"{api}/api/whoami", auth=user).json()["name"] == "darkroom"
    lose(url, tmp_path)
    refused = darkroom("restore", path, "--rabbitmq-api", api.replace(":guest@", ":wrong@"))
    assert (refused.exit_code, len(refused.output.splitlines())) == (1, 2), refused.output
    assert untouched(url, tmp_path)

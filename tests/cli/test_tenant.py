"""`darkroom tenant` against real servers: what an export holds, what an erasure leaves, and what each refuses."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from backends.redis_client import connect, disconnect
from cli.main import app
from cli.receipt import is_whole
from cli.services.redis import RedisServer
from contracts.jobs import JobStatus
from contracts.settings import BackendSettings
from store.audit import audit
from store.erasing import SETTLE_S
from store.stores import Stores, open_stores
from tests.store.made import new, result
from tests.store.tenants import Used, everything, indexed, lived_in

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
STATE, CACHE = "/4", "/5"
Command = Callable[..., Result]


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path) -> BackendSettings:
    """State and cached results on databases of their own, both empty."""
    urls = [redis_server.url.replace("/0", database) for database in (STATE, CACHE)]
    for url in urls:
        with redis.Redis.from_url(url) as client:
            client.flushdb()
    return BackendSettings(redis_url=urls[0], cache_redis_url=urls[1], blob_dir=tmp_path / "blobs")


@pytest.fixture
def darkroom(monkeypatch: pytest.MonkeyPatch, settings: BackendSettings) -> Command:
    for name, value in settings.to_env().items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


def on(settings: BackendSettings, work: Callable[[Stores], Any]) -> Any:
    """The answer of `work` on the platform's stores."""

    async def run() -> Any:
        stores = open_stores(settings)
        try:
            return await work(stores)
        finally:
            await stores.close()

    return asyncio.run(run())


def used_by(settings: BackendSettings, tenant: str) -> Used:
    used: Used = on(settings, lambda stores: lived_in(stores, settings, tenant))
    return used


def everywhere(settings: BackendSettings) -> str:
    """All that is in both databases, as text. A server may tell the fields of a hash in any order."""

    async def look(url: str) -> dict[str, Any]:
        client = connect(url, 5.0)
        try:
            found = await everything(client)
            return {
                name: dict(sorted(found[name].items())) if isinstance(found[name], dict) else found[name]
                for name in sorted(found)
            }
        finally:
            await disconnect(client)

    return str([asyncio.run(look(url)) for url in (settings.redis_url, str(settings.cache_redis_url))])


def differences(settings: BackendSettings) -> list[str]:
    async def look() -> list[str]:
        client = connect(settings.redis_url, 5.0)
        try:
            return list((await audit(client, 5.0)).differences)
        finally:
            await disconnect(client)

    return asyncio.run(look())


def files_of(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_an_export_is_json_and_pictures_with_a_receipt(
    darkroom: Command, settings: BackendSettings, tmp_path: Path
) -> None:
    acme, other = used_by(settings, "acme"), used_by(settings, "acme2")
    before, path = everywhere(settings), tmp_path / "acme.tar"
    done = darkroom("tenant", "export", "acme", path)
    assert done.exit_code == 0, done.output
    assert everywhere(settings) == before, "an export changes nothing"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    files = files_of(path)
    receipt = json.loads(files.pop("receipt.json"))
    assert is_whole(json.dumps(receipt))
    stated = {name: value for name, value in receipt.items() if name != "sha256"}
    canonical = json.dumps(
        stated, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )  # as `jq -cS` writes it
    assert receipt["sha256"] == hashlib.sha256(canonical.encode()).hexdigest()
    assert receipt["counts"] == {
        "jobs": 6,
        "webhooks": 1,
        "pictures": 6,
        "source_pictures": 2,
        "api_keys": 1,
        "quota_accounts": 1,
        "usage_days": 2,
        "idempotency_keys": 3,
        "cached_results": 1,
        "picture_records": 4,
        "similar_prompts": 1,
        "search_clicks": 1,
        "queue_shares": 1,
        "room_account": 1,
        "webhook_secrets": 1,
        "webhook_receivers": 1,
        "import_hashes": 1,
    }
    assert {name: about["sha256"] for name, about in receipt["files"].items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items()
    }
    job = json.loads(files[f"jobs/{acme.jobs['ended'].id}.json"])
    assert (job["status"], job["request"]["prompt"]) == ("succeeded", acme.prompt)
    assert job["webhook_delivery"]["attempts"][0]["status_code"] == 500
    for name in (each["name"] for each in job["result"]["images"]):
        assert hashlib.sha256(files[f"pictures/{name}"]).hexdigest() == name.partition(".")[0]
    assert files["source_pictures/" + acme.pictures["input"].removeprefix("inputs/")].startswith(b"input")
    assert json.loads(files["api_keys.json"])[0]["id"] == acme.key_id
    assert set(json.loads(files["quota_accounts.json"])[acme.key_id]) >= {"queued", "running", "tat"}
    records = json.loads(files["picture_records.json"])
    assert {each["name"] for each in records} == {
        acme.pictures[kind] for kind in ("both", "own", "forgotten", "imported")
    }
    assert {each["prompt"] for each in records} == {acme.prompt}
    assert json.loads(files["usage_days.json"])["2026-11-30"] == {"jobs": 6, "steps": 8}
    text = b"".join(files.values())
    for stranger in (other.prompt, other.key_id, "acme2", "d" * 64, "whsec_"):
        assert stranger.encode() not in text, stranger


def test_an_export_refuses_a_file_that_is_there_and_is_no_backup(
    darkroom: Command, settings: BackendSettings, tmp_path: Path
) -> None:
    used_by(settings, "acme")
    path = tmp_path / "acme.tar"
    assert darkroom("tenant", "export", "acme", path).exit_code == 0
    again = darkroom("tenant", "export", "acme", path)
    assert (again.exit_code, "exists already" in again.output) == (1, True)
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []
    restored = darkroom("restore", path)
    assert (restored.exit_code, "not a backup" in restored.output) == (1, True), restored.output
    with path.open("wb") as out:
        command = [sys.executable, "-m", "cli.main", "tenant", "export", "nobody", "-"]
        done = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, "there is no data" in done.stderr) == (0, True), done.stderr
    assert json.loads(files_of(path)["receipt.json"])["counts"] == {}


def test_a_dry_run_counts_and_erases_nothing(darkroom: Command, settings: BackendSettings) -> None:
    used_by(settings, "acme")
    on(settings, lambda stores: stores.jobs.submit(new("7" * 64, "acme")))
    before = everywhere(settings)
    done = darkroom("tenant", "erase", "acme", "--dry-run")
    assert done.exit_code == 0, done.output
    receipt = json.loads(done.stdout)
    assert (receipt["dry_run"], receipt["complete"]) == (True, False)
    assert (receipt["counts"]["jobs"], receipt["counts"]["live_jobs"], receipt["counts"]["pictures"]) == (
        6,
        1,
        6,
    )
    assert everywhere(settings) == before


def test_an_erasure_leaves_nothing_but_its_receipt(
    darkroom: Command, settings: BackendSettings, tmp_path: Path
) -> None:
    acme, other = used_by(settings, "acme"), used_by(settings, "acme2")
    path = tmp_path / "receipt.json"
    done = darkroom("tenant", "erase", "acme", "--receipt", path)
    assert done.exit_code == 0, done.output
    receipt = json.loads(path.read_text())
    assert is_whole(path.read_text())
    assert (receipt["receipt"], receipt["tenant"], receipt["complete"]) == ("erase", "acme", True)
    assert (receipt["counts"]["jobs"], receipt["counts"]["pictures"], receipt["shared_pictures"]) == (6, 5, 1)
    assert any("until 20" in line for line in receipt["remains"])
    assert acme.key_id not in path.read_text(), "it is kept longer than what it is about"
    assert any("search index" in line for line in receipt["remains"])
    assert {each.scope for each in on(settings, indexed)} == {"acme"}
    left = everywhere(settings)
    for word in (r"\bacme\b", re.escape(acme.prompt), acme.key_id, acme.pictures["own"]):
        assert not re.search(word, left), word
    assert other.prompt in left
    assert differences(settings) == []
    changed = path.read_text().replace('"jobs": 6', '"jobs": 5')
    assert not is_whole(changed)
    again = darkroom("tenant", "erase", "acme")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["counts"] == {}
    refused = darkroom("tenant", "erase", "acme2", "--receipt", path)
    assert (refused.exit_code, "exists already" in refused.output) == (1, True)
    assert other.prompt in everywhere(settings), "what has no place for its receipt is not begun"


def test_live_jobs_refuse_it_unless_they_are_canceled(darkroom: Command, settings: BackendSettings) -> None:
    used_by(settings, "acme")
    job = new("7" * 64, "acme")
    on(settings, lambda stores: stores.jobs.submit(job))
    before = everywhere(settings)
    refused = darkroom("tenant", "erase", "acme")
    assert (refused.exit_code, "1 jobs that have not ended" in refused.output) == (1, True), refused.output
    assert "--cancel" in refused.output
    assert everywhere(settings) == before
    done = darkroom("tenant", "erase", "acme", "--cancel")
    assert done.exit_code == 0, done.output
    receipt = json.loads(done.stdout)
    assert (receipt["counts"]["canceled_jobs"], receipt["counts"]["jobs"]) == (1, 7)
    assert any("Messages of canceled jobs" in line for line in receipt["remains"])
    assert on(settings, lambda stores: stores.jobs.statuses([job.id])) == [JobStatus.CANCELED]
    on(settings, indexed)
    assert not re.search(r"\bacme\b", everywhere(settings))


@pytest.mark.parametrize("tenant", ["public", "admin"])
def test_the_platforms_own_tenants_are_erased_and_the_receipt_says_that_they_may_come_again(
    darkroom: Command, settings: BackendSettings, tenant: str
) -> None:
    other = used_by(settings, "acme")
    on(settings, lambda stores: stores.jobs.submit(new("8" * 64, tenant), result()))
    done = darkroom("tenant", "erase", tenant)
    assert done.exit_code == 0, done.output
    receipt = json.loads(done.stdout)
    assert receipt["counts"] == {"jobs": 1}
    assert any("new jobs may come" in line for line in receipt["remains"])
    left = everywhere(settings)
    assert not re.search(rf"'{tenant}'", left)
    assert other.prompt in left


async def opened(stores: Stores, used: Used) -> None:
    """One more key of the tenant, which opens."""
    key = await stores.keys.find(used.key_id)
    assert key is not None
    await stores.keys.create(key.model_copy(update={"id": "dk_open", "revoked_at": None}))


def test_one_that_is_killed_while_the_keys_settle_is_taken_up_again(
    darkroom: Command, settings: BackendSettings
) -> None:
    """A key that opens is revoked first, and nothing goes before what came by it has settled."""
    used = used_by(settings, "acme")
    on(settings, lambda stores: opened(stores, used))
    command = [sys.executable, "-m", "cli.main", "tenant", "erase", "acme"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as erasing:
        assert erasing.stderr is not None
        said = erasing.stderr.readline()
        assert "revoked" in said, said
        erasing.kill()
    assert on(settings, lambda stores: stores.jobs.statuses([used.jobs["ended"].id])) == [JobStatus.SUCCEEDED]
    key = on(settings, lambda stores: stores.keys.find("dk_open"))
    assert key.revoked_at is not None
    done = darkroom("tenant", "erase", "acme")
    assert done.exit_code == 0, done.output
    assert "goes on" in done.stderr
    assert time.time() >= key.revoked_at + SETTLE_S
    receipt = json.loads(done.stdout)
    assert (receipt["complete"], receipt["counts"]["api_keys"], receipt["counts"]["jobs"]) == (True, 2, 6)
    on(settings, indexed)
    assert not re.search(r"\bacme\b|dk_open", everywhere(settings))


def test_services_that_are_away_are_one_line(
    darkroom: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DARKROOM_REDIS_URL", "redis://127.0.0.1:9/0")
    monkeypatch.setenv("DARKROOM_REDIS_TIMEOUT_S", "0.5")
    for arguments in (("export", "acme", tmp_path / "a.tar"), ("erase", "acme")):
        away = darkroom("tenant", *arguments)
        assert (away.exit_code, len(away.output.splitlines())) == (2, 1), away.output
    assert not (tmp_path / "a.tar").exists()

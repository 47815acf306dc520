"""`darkroom moderation scan` on a real Redis: killed and gone on with, beside another one, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from backends.blobs import DirectoryBlobStore
from cli.services.redis import RedisServer
from contracts.scans import Scan
from contracts.settings import BackendSettings
from runtime.clock import SystemClock
from store.scans import SCAN
from store.stores import open_stores
from tests.stores import lapse
from tests.worker.policies import BLOCKED, HELD, file_of, name_of, policy_in

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STATE = "/6"
OTHERS = range(1000, 1120)
"""The seeds of images that no list knows."""
PATIENCE_S = 100.0


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path) -> BackendSettings:
    """A policy, and images that were stored before it."""
    url = redis_server.url.replace("/0", STATE)
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    made = BackendSettings(
        redis_url=url, blob_dir=tmp_path / "blobs", moderation=policy_in(tmp_path / "policy")
    )

    async def put() -> None:
        stores = open_stores(made)
        for seed in (HELD, BLOCKED, *OTHERS):
            await stores.blobs.put(file_of(seed), "png")
        await stores.close()

    asyncio.run(put())
    return made


def begun(settings: BackendSettings, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cli.main", "moderation", "scan", "--by", "ada", *arguments],
        cwd=ROOT,
        env={**os.environ, **settings.to_env(), "COLUMNS": "300"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, errors = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, errors


def stored(settings: BackendSettings) -> Scan | None:
    with redis.Redis.from_url(settings.redis_url) as client:
        text = client.get(SCAN)
    return None if text is None else Scan.model_validate_json(text)


def test_a_killed_scan_goes_on_and_looks_at_nothing_twice(settings: BackendSettings) -> None:
    first = begun(settings, "--rate", "3")
    until = time.monotonic() + PATIENCE_S
    while (scan := stored(settings)) is None or not 0 < scan.looked < len(OTHERS):
        assert time.monotonic() < until
        assert first.poll() is None, ended(first)
        time.sleep(0.02)
    code, _, errors = ended(begun(settings))
    assert (code, "Another process scans" in errors) == (1, True), errors
    first.send_signal(signal.SIGKILL)
    ended(first)
    lapse(settings.redis_url, 31.0)
    halfway = stored(settings)
    assert halfway is not None
    code, out, errors = ended(begun(settings, "--json"))
    assert code == 0, errors
    scan = Scan.model_validate({**json.loads(out)})
    assert scan.id == halfway.id
    assert {outcome.value: count for outcome, count in scan.images.items()} == {
        "held": 1,
        "blocked": 1,
        "passed": len(OTHERS),
    }
    # What was looked at and not counted when the process was killed is known, and is not looked at again.
    assert halfway.looked <= scan.looked <= len(OTHERS) + 2
    assert "house@3: 122 images (120 passed, 1 held, 1 blocked)" in errors
    code, _, errors = ended(begun(settings))
    assert (code, "0 of them looked at" in errors) == (0, True), errors


def test_what_it_refuses(settings: BackendSettings, tmp_path: Path) -> None:
    code, _, errors = ended(begun(settings.model_copy(update={"moderation": None})))
    assert (code, "DARKROOM_MODERATION names no policy" in errors) == (2, True), errors
    settings.moderation.write_text("name: house\n")  # type: ignore[union-attr]
    code, _, errors = ended(begun(settings))
    assert (code, "version" in errors) == (2, True), errors
    assert stored(settings) is None


def test_an_image_that_cannot_be_judged_is_told_by_the_exit_code(settings: BackendSettings) -> None:
    async def put() -> None:
        stores = open_stores(settings)
        await stores.blobs.put(b"no image", "png")
        await stores.close()

    asyncio.run(put())
    code, _, errors = ended(begun(settings))
    assert (code, "1 not judged" in errors, "Scan again" in errors) == (1, True, True), errors


def test_the_example_of_the_help_says_what_a_scan_would_do(settings: BackendSettings) -> None:
    code, out, errors = ended(begun(settings, "--dry-run", "--json"))
    assert code == 0, errors
    assert json.loads(out)["images"] == {"held": 1, "blocked": 1, "passed": len(OTHERS)}
    assert "0 records would be changed" in errors
    client = DirectoryBlobStore(settings.blob_dir, SystemClock())
    assert [asyncio.run(client.exists(name_of(seed))) for seed in (HELD, BLOCKED)] == [True, True]

"""`darkroom keys` against a running API; and an API that others could reach without a key does not run."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from cli.record import admin_key
from cli.services import process
from cli.services.redis import RedisServer
from contracts.tenancy import is_token, new_token
from tests.integration.conftest import Stack

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def darkroom_command(*arguments: str, **environ: str) -> str:
    done = run("cli.main", *arguments, **environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def darkroom(*arguments: str, **environ: str) -> str:
    return darkroom_command("keys", *arguments, **environ)


def test_keys_are_made_listed_and_revoked(redis_server: RedisServer, tmp_path: Path) -> None:
    admin = darkroom("new").strip()
    assert is_token(admin)
    settings = {
        "DARKROOM_REDIS_URL": redis_server.url.replace("/0", "/8"),
        "DARKROOM_ADMIN_KEY": admin,
        "DARKROOM_ALLOW_ANONYMOUS": "false",
    }
    with Stack.open(settings, tmp_path, redis_server, broker=False, workers=0) as stack:
        mine = {"DARKROOM_SERVER": stack.url, "DARKROOM_API_KEY": admin}
        made = darkroom(
            "create", "acme", "--name", "shop", "--images-per-day", "5", "--priority", "batch", **mine
        )
        key = made.strip()
        assert is_token(key)
        jobs = httpx.get(f"{stack.url}/v1/jobs", headers={"Authorization": f"Bearer {key}"})
        assert (jobs.status_code, httpx.get(f"{stack.url}/v1/jobs").status_code) == (200, 401)
        listed = darkroom("list", **mine)
        assert key[:11] in listed
        assert "acme" in listed
        assert key not in listed
        assert "revoked" in darkroom("revoke", key[:11], **mine)
        wrong = run("cli.main", "keys", "list", **{**mine, "DARKROOM_API_KEY": new_token()})
        assert (wrong.returncode, wrong.stderr.strip()) == (
            1,
            "The API key is not valid: unknown, or revoked.",
        )
        drawn = darkroom_command("cache", "stats", **mine)
        assert "0 jobs: 0 from the cache" in drawn
        assert darkroom_command("cache", "purge", "--tenant", "acme", **mine) == "0 results are forgotten.\n"
        log = (stack.folder / "api" / "output.log").read_text()
        assert admin not in log
        assert key not in log


def test_a_server_that_others_reach_does_not_start_without_a_key(redis_server: RedisServer) -> None:
    environ = {
        "PYTHONPATH": str(ROOT),
        "DARKROOM_HOST": "0.0.0.0",
        "DARKROOM_PORT": str(process.free_port()),
        "DARKROOM_REDIS_URL": redis_server.url.replace("/0", "/7"),
    }
    done = run("api", **environ)
    assert done.returncode == 2
    assert "DARKROOM_ADMIN_KEY" in done.stderr
    assert "DARKROOM_ALLOW_ANONYMOUS=true" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_platforms_first_key_is_made_once_and_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "admin.key"
    token = admin_key(tmp_path)
    assert is_token(token)
    assert admin_key(tmp_path) == token
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

"""Every command has an example in its help, and it does what it says against a running platform."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from cli.main import app
from cli.services import process
from cli.services.redis import RedisServer
from contracts.tenancy import new_token
from tests.cli.listed import PASSED_ON, everything
from tests.integration.conftest import ROOT, Stack

pytestmark = pytest.mark.slow
TIMEOUT_S = 100.0
JOB, KEY = "job_01m891b1nwt5m8j8181g2t3n06b", "dk_4fT9aQzB"
FAKE = {"DARKROOM_ENGINE": "fake", "DARKROOM_MODEL": "fake"}


def examples() -> Iterator[str]:
    for path, command in everything():
        if path[:1] not in [(name,) for name in PASSED_ON]:
            yield from re.findall(r"^\s*Example: (.+)$", command.help, re.MULTILINE)


@dataclass(frozen=True)
class Reader:
    """Somebody who tries an example: a folder, and the settings of a platform."""

    stack: Stack
    folder: Path
    environ: dict[str, str]

    def command(self, example: str) -> list[str]:
        """The example with what the reader has to fill in."""
        if JOB in example:
            example = example.replace(JOB, self.stack.submit(prompt="a", seed=1)["id"])
        if KEY in example:
            example = example.replace(
                KEY, self.stack.http.post("/v1/keys", json={"tenant": "a"}).json()["id"]
            )
        return ["bash", "-c", example.replace("/backups", str(self.folder))]

    def run(self, example: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(example),
            cwd=self.folder,
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("examples")
    server = RedisServer(folder / "redis", options=("--repl-diskless-sync-delay", "0"))
    server.start()
    try:
        with Stack.open({"DARKROOM_ADMIN_KEY": new_token(), **FAKE}, folder, server, broker=False) as running:
            yield running
    finally:
        server.stop()


@pytest.fixture
def reader(stack: Stack, tmp_path: Path) -> Reader:
    names = ("DARKROOM_REDIS_URL", "DARKROOM_BROKER_URL", "DARKROOM_BLOB_DIR")
    return Reader(
        stack,
        tmp_path,
        {
            **os.environ,
            "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "DARKROOM_SERVER": stack.url,
            "DARKROOM_API_KEY": stack.environ["DARKROOM_ADMIN_KEY"],
            **{name: stack.environ[name] for name in names},
        },
    )


REVIEWS = ("darkroom moderation release", "darkroom moderation refuse", "darkroom moderation undo")
"""They need a held image (tests/cli/test_moderation_reviews.py)."""
APART = (
    "darkroom verify",
    "darkroom moderation check",
    "darkroom moderation fit",
    "darkroom moderation import",
    "darkroom moderation scan",
    "darkroom up",
    "darkroom worker",
    "darkroom restore",
    "darkroom migrate",
    "darkroom search",
    *REVIEWS,
)
"""Examples that need more than a running platform. Those of the search are in `test_search.py`."""


@pytest.mark.parametrize("path", [path for path, _ in everything()], ids=" ".join)
def test_help_shows_an_example_of_this_command(path: tuple[str, ...]) -> None:
    if path[:1] in [(name,) for name in PASSED_ON]:
        shown = subprocess.run(
            [sys.executable, "-m", "cli.main", *path, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        ).stdout
    else:
        shown = CliRunner().invoke(app, [*path, "--help"]).stdout
    assert re.search(rf"(Example: .*|^ +){' '.join(('darkroom', *path))}", shown, re.MULTILINE), shown


@pytest.mark.parametrize(
    "example", [each for each in dict.fromkeys(examples()) if not any(name in each for name in APART)]
)
def test_an_example_works(reader: Reader, example: str) -> None:
    done = reader.run(example)
    assert done.returncode == 0, (done.stdout, done.stderr)
    for name in re.findall(r"(?:-o|--receipt) (\S+)", example):
        assert (reader.folder / name).stat().st_size


def one(beginning: str) -> str:
    (found,) = {each for each in examples() if beginning in each}
    return found


def test_the_example_of_up_draws_a_picture(reader: Reader) -> None:
    example = one("darkroom up")
    environ = {name: "" for name in reader.environ if name.startswith("DARKROOM_")}
    done = reader.run(example, **environ, **FAKE, DARKROOM_PORT=str(process.free_port()))
    assert done.returncode == 0, done.stderr
    assert (reader.folder / shlex.split(example)[-1]).read_bytes().startswith(b"\x89PNG")


def test_the_example_of_worker_starts_two(reader: Reader) -> None:
    environ = {**reader.environ, **FAKE}
    with subprocess.Popen(
        ["bash", "-c", f"exec {one('darkroom worker')}"],
        cwd=reader.folder,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as supervisor:
        try:
            reader.stack.wait_ready(3)
        finally:
            supervisor.terminate()
        assert supervisor.wait(60) == 0


def test_the_example_of_restore_fills_an_empty_platform(reader: Reader) -> None:
    example = one("darkroom restore")
    saved = reader.run(f"darkroom backup {shlex.split(example)[-1]}")
    assert saved.returncode == 0, saved.stderr
    empty = reader.stack.redis.url.replace("/0", "/5")
    with redis.Redis.from_url(empty) as client:
        client.flushdb()
    blobs = str(reader.folder / "blobs")
    done = reader.run(example, DARKROOM_REDIS_URL=empty, DARKROOM_BLOB_DIR=blobs)
    assert done.returncode == 0, done.stderr
    assert "Start the platform now." in done.stderr


def test_the_example_of_migrate_finds_nothing_to_move(reader: Reader) -> None:
    done = reader.run(one("darkroom migrate"), DARKROOM_REDIS_URL=reader.stack.redis.url.replace("/0", "/6"))
    assert done.returncode == 0, done.stderr
    assert "nothing to move" in done.stderr

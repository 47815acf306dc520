"""Two servers never share a port in silence: as people start them, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from cli.services import process
from cli.services.redis import RedisServer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def environ(redis_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DARKROOM_REDIS_URL": redis_server.url.replace("/0", "/5"),
        "DARKROOM_BROKER_URL": redis_server.url.replace("/0", "/6"),
        "DARKROOM_BLOB_DIR": str(tmp_path / "blobs"),
        "DARKROOM_ENGINE": "fake",
        "DARKROOM_MODEL": "fake",
    }


@pytest.fixture
def start(environ: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """An API in a folder of its own; ended with the test."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(name: str, **settings: str) -> subprocess.Popen[bytes]:
        made = process.launch([sys.executable, "-m", "api"], tmp_path / name, {**environ, **settings})
        running.append(made)
        return made

    yield begin
    for each in running:
        process.end(each)


@pytest.fixture
def taken() -> Iterator[int]:
    """The port of another program's server, which would let others listen beside it."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def answers(port: int) -> bool:
    return process.answers(port, b"GET /healthz HTTP/1.0\r\n\r\n", b"HTTP/1.0 200")


def until(true: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_an_api_refuses_a_port_in_use(environ: dict[str, str], taken: int, host: str) -> None:
    given = {"DARKROOM_PORT": str(taken), "DARKROOM_HOST": host, "DARKROOM_ALLOW_ANONYMOUS": "true"}
    done = run("api", **{**environ, **given})
    assert done.returncode == 2
    assert f"darkroom api: DARKROOM_PORT: Port {taken} is in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["worker", "webhooks"])
def test_a_metrics_port_in_use_is_refused(environ: dict[str, str], taken: int, module: str) -> None:
    done = run(module, **{**environ, "DARKROOM_METRICS_PORT": str(taken)})
    assert done.returncode == 2
    assert f"darkroom {module}: DARKROOM_METRICS_PORT: Port {taken} is in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("setting", ["DARKROOM_PORT", "DARKROOM_METRICS_PORT"])
def test_up_refuses_a_port_in_use_before_it_starts_anything(
    environ: dict[str, str], taken: int, setting: str, tmp_path: Path
) -> None:
    given = {name: value for name, value in environ.items() if not name.endswith("_URL")}
    folder = tmp_path / "platform"
    done = run("cli.main", "up", "--folder", str(folder), "--prompt", "", **{**given, setting: str(taken)})
    assert done.returncode == 2
    assert done.stderr.strip().startswith(f"darkroom up: {setting}: Port {taken} is in use")
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_of_two_that_start_at_once_one_has_the_port(start: Start) -> None:
    port = str(process.free_port())
    both = [start("one", DARKROOM_PORT=port), start("two", DARKROOM_PORT=port)]
    until(lambda: any(each.poll() is not None for each in both))
    (ended,) = [each for each in both if each.poll() is not None]
    assert ended.returncode == 2
    until(lambda: answers(int(port)))


def test_a_port_is_shared_where_that_is_asked_for(
    start: Start, environ: dict[str, str], tmp_path: Path
) -> None:
    shared = {"DARKROOM_PORT": str(process.free_port()), "DARKROOM_SHARE_PORT": "true"}
    port = int(shared["DARKROOM_PORT"])
    old = start("old", **shared)
    until(lambda: answers(port))
    new = start("new", **shared)
    until(lambda: '"listening"' in (tmp_path / "new" / "output.log").read_text())
    assert run("api", **{**environ, **shared, "DARKROOM_SHARE_PORT": ""}).returncode == 2
    # A restart without a gap: the old one leaves when the new one is there.
    old.send_signal(signal.SIGTERM)
    assert old.wait(30) == 0
    assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    assert new.poll() is None


def test_a_port_of_its_own_choice_is_told(start: Start, tmp_path: Path) -> None:
    start("any", DARKROOM_PORT="0")
    log = tmp_path / "any" / "output.log"
    until(lambda: '"listening"' in log.read_text())
    (line,) = [line for line in log.read_text().splitlines() if '"listening"' in line]
    port = json.loads(line)["port"]
    until(lambda: answers(port))

"""The commands as people run them: processes of their own, with the embedded model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from cli.main import FIRST_PROMPT
from cli.services import process
from tests.integration.searching import FOUND_S

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def workers(supervisor: int) -> list[psutil.Process]:
    """Its living worker processes."""
    found = []
    for child in psutil.Process(supervisor).children():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "worker" in child.cmdline():
                found.append(child)
    return found


@pytest.fixture
def ended() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that must not outlive the test, however it ends."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for each in started:
        each.send_signal(signal.SIGINT)
        if each.stdout is not None:
            each.stdout.close()


@pytest.mark.timeout(240)
def test_up_makes_a_picture_serves_and_leaves_nothing_behind(
    tmp_path: Path, ended: list[subprocess.Popen[str]]
) -> None:
    port = str(process.free_port())
    command = [
        sys.executable,
        "-m",
        "cli.main",
        "up",
        "--no-search",
        "--folder",
        str(tmp_path),
        "--out",
        str(tmp_path / "first.png"),
    ]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "DARKROOM_PORT": port},
        stdout=subprocess.PIPE,
        text=True,
        # As from a terminal: what a shell starts in the background would pass on that Ctrl-C is to be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as up:
        ended.append(up)
        assert up.stdout is not None
        said = []
        for line in up.stdout:
            said.append(line)
            if "Serving at" in line:
                break
        assert f"http://127.0.0.1:{port}" in said[-1], said
        Image.open(tmp_path / "first.png").load()
        url = f"http://127.0.0.1:{port}"
        out = tmp_path / "mine.png"
        for how in ("drawn", "from the cache"):
            made = run(
                "cli.main", "generate", "a rocket on a yellow background", "--out", str(out), "--server", url
            )
            assert how in made.stdout, made
        Image.open(out).load()
        wrong = run("cli.main", "generate", "a rocket", "--width", "7", "--server", url)
        assert wrong.returncode == 1
        assert "width must be between" in wrong.stderr
        second = run("cli.main", "up", "--folder", str(tmp_path))
        assert second.returncode == 1
        assert "running" in second.stderr
        # A worker that dies is replaced.
        (worker,) = workers(up.pid)
        worker.kill()
        until = time.monotonic() + 30
        while worker in workers(up.pid) or not workers(up.pid):
            assert time.monotonic() < until
            time.sleep(0.2)
        assert httpx.get(f"{url}/healthz").status_code == 200
        below = psutil.Process(up.pid).children(recursive=True)
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
    gone, alive = psutil.wait_procs(below, timeout=30)
    assert not alive
    assert gone


@pytest.mark.timeout(900)
def test_up_finds_what_it_has_drawn(tmp_path: Path, ended: list[subprocess.Popen[str]]) -> None:
    """The search starts after the first picture, finds it, and is not needed for more of them."""
    port = str(process.free_port())
    begin = ["-m", "cli.main", "up", "--folder", str(tmp_path), "--out", str(tmp_path / "first.png")]
    # Not in a `with`: that would wait for it where the test fails.
    up = subprocess.Popen(
        [sys.executable, *begin],
        cwd=ROOT,
        env={**os.environ, "DARKROOM_PORT": port},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    ended.append(up)
    assert up.stdout is not None
    said = []
    for line in up.stdout:
        said.append(line)
        if "Serving at" in line:
            break
    url = f"http://127.0.0.1:{port}"
    assert f"Search your pictures at {url}/gallery\n" in said
    drawn = (tmp_path / "first.png").stat().st_mtime
    log = tmp_path / "search" / "output.log"
    until = time.monotonic() + FOUND_S
    while not (hits := httpx.get(f"{url}/v1/search").json().get("data")):
        assert time.monotonic() < until, log.read_text()
        assert up.poll() is None, said
        time.sleep(0.2)
    assert [hit["prompt"] for hit in hits] == [FIRST_PROMPT]
    (search,) = [each for each in psutil.Process(up.pid).children() if "search" in each.cmdline()]
    assert (tmp_path / "search").stat().st_mtime >= drawn, "it was started after the picture"
    assert "/gallery" in httpx.get(url).text
    found = run("cli.main", "search", "a red apple", "--json", "--server", url)
    assert '"score"' in found.stdout, found
    # An index that cannot be used ends the search alone.
    index = tmp_path / "search-index" / "pictures.sqlite3"
    search.suspend()
    index.write_bytes(b"")
    search.kill()
    for line in up.stdout:
        said.append(line)
        if "goes on without a search" in line:
            break
    assert any("The search cannot run: " in line for line in said), said
    made = run("cli.main", "generate", "a cat", "--out", str(tmp_path / "cat.png"), "--server", url)
    assert made.returncode == 0, made
    up.send_signal(signal.SIGINT)
    assert up.wait(60) == 0


def test_generate_without_a_server_says_so() -> None:
    done = run("cli.main", "generate", "a", "--server", f"http://127.0.0.1:{process.free_port()}")
    assert done.returncode == 1
    assert "does not answer" in done.stderr


@pytest.mark.parametrize("module", ["api", "worker"])
def test_a_bad_setting_stops_the_process_with_its_name(module: str) -> None:
    done = run(module, DARKROOM_JOB_TTL_S="soon", DARKROOM_MAX_ATTEMPTS="0")
    assert done.returncode == 2
    assert "DARKROOM_JOB_TTL_S" in done.stderr
    assert "DARKROOM_MAX_ATTEMPTS" in done.stderr


def test_a_worker_whose_model_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    done = run("worker", DARKROOM_MODEL=str(tmp_path))
    assert done.returncode == 2
    said = done.stderr.splitlines()[-1]
    assert said.startswith("darkroom worker: ")
    assert "model_index.json" in said


def test_a_model_that_cannot_be_loaded_ends_the_platform_at_once(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    done = run("cli.main", "up", "--folder", str(tmp_path / "data"), DARKROOM_MODEL=str(tmp_path / "model"))
    assert done.returncode == 2
    *news, last = done.stderr.splitlines()
    assert last.startswith("darkroom up: The worker-1 cannot run: ")
    assert "model_index.json" in last
    assert any(line.startswith("The API answers") and "Loading" in line for line in news)
    log = (tmp_path / "data" / "worker-1" / "output.log").read_text()
    assert log.count("model_unloadable") == 1, "it was tried once"


@pytest.mark.parametrize("model", ["no/such/folder", "models/none", "none"])
def test_a_model_that_is_nowhere_is_said_before_anything_starts(tmp_path: Path, model: str) -> None:
    done = run("cli.main", "up", "--folder", str(tmp_path / "data"), DARKROOM_MODEL=model)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"darkroom up: DARKROOM_MODEL={model} is no folder here")
    assert not (tmp_path / "data").exists()


@pytest.mark.timeout(240)
def test_up_outside_of_the_checkout_takes_the_embedded_model_and_is_found(
    tmp_path: Path, ended: list[subprocess.Popen[str]]
) -> None:
    """From a folder that has nothing to do with the checkout: `up`, then what reads and asks that platform."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    environ |= {"PYTHONPATH": str(ROOT), "DARKROOM_PORT": str(process.free_port())}
    command = [sys.executable, "-m", "cli.main"]
    first = tmp_path / "first.webp"
    with subprocess.Popen(
        [*command, "up", "-o", str(first)],
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as up:
        ended.append(up)
        assert up.stdout is not None
        assert any("Serving at" in line for line in up.stdout)
        assert first.read_bytes()[8:12] == b"WEBP"

        def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [*command, *arguments],
                cwd=tmp_path,
                env=environ,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        doctor = ask("doctor")
        assert doctor.returncode == 0, doctor
        assert "model emoji-turbo: 1 live worker" in doctor.stdout
        assert "1 jobs recorded, 0 live" in doctor.stdout
        assert ask("audit").stdout == "1 recorded = 1 succeeded + 0 live\n"
        listed = ask("keys", "list")
        assert listed.returncode == 0, "asked where the platform listens, which is not the usual port"
        found = ask("models")
        assert "emoji-turbo" in found.stdout, "every command that calls a server finds it"
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
        gone = ask("audit")
        assert gone.returncode == 2, "there is no platform here any more"

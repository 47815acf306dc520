"""What a failed download means, by a hub of our own on this machine: what may pass is told from what never will."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cli.services import process

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STATUSES = (401, 403, 404, 429, 500, 503)
# The hub's address is read as its library is imported: so in a process of its own, once for all cases.
PROGRAM = """
import json, sys
from contracts.settings import WorkerSettings
from worker.engine import hub
from worker.engine.errors import ModelLoadError, ModelLoadRetryable
for name in sys.argv[1:]:
    try:
        hub.fetch(WorkerSettings(model=name), halves=False)
    except ModelLoadError as error:
        print(json.dumps([name, isinstance(error, ModelLoadRetryable), str(error)]))
"""


class Hub(BaseHTTPRequestHandler):
    """Answers each repository `x/STATUS` with that status. Of the answer for `x/cut` it sends a part."""

    def do_GET(self) -> None:
        if "/cut" in self.path:
            self.wfile.write(b"HTTP/1.1 200 O")
            self.close_connection = True
            return
        status = next((status for status in STATUSES if f"/{status}" in self.path), 404)
        self.send_response(status)
        if status in (401, 404):
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def fetched(endpoint: str, cache: Path, *names: str, **environ: str) -> dict[str, tuple[bool, str]]:
    """(may pass, message) of each model."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(cache),
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (may_pass, message) for name, may_pass, message in found}


def test_what_the_hub_says_decides(hub: str, tmp_path: Path) -> None:
    found = fetched(hub, tmp_path, *(f"x/{status}" for status in STATUSES))
    assert {name: may_pass for name, (may_pass, _) in found.items()} == {
        "x/401": False,
        "x/403": False,
        "x/404": False,
        "x/429": True,
        "x/500": True,
        "x/503": True,
    }
    assert "the hub has no such model" in found["x/404"][1]
    assert all("\n" not in message for _, message in found.values())


def test_a_hub_that_is_away_may_come_back_and_one_that_is_switched_off_does_not(tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{process.free_port()}"
    assert fetched(nowhere, tmp_path, "x/y")["x/y"][0]
    assert not fetched(nowhere, tmp_path, "x/y", HF_HUB_OFFLINE="1")["x/y"][0]


def test_a_hub_that_breaks_off_may_come_back(hub: str, tmp_path: Path) -> None:
    # huggingface-hub 2.4 raises the errors of httpx2. They are no errors of httpx, nor of the system.
    may_pass, message = fetched(hub, tmp_path, "x/cut")["x/cut"]
    assert may_pass
    assert "DARKROOM_MODEL=x/cut cannot be fetched" in message

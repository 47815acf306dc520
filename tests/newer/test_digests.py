"""`docker/digests.py` against a registry that speaks the distribution protocol, and asks for a token."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.newer.suites import ROOT

FILES = ("compose.yaml", "helm/darkroom/values.yaml", "docker/api.Dockerfile", "docker/worker.Dockerfile")


class Registry(ThreadingHTTPServer):
    """Has every tag of what is in `has`; `lies` about digests when told to."""

    has: frozenset[str] = frozenset({"library/rabbitmq", "library/redis", "library/python"})
    lies = False
    edition = 1

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def manifest(self, path: str) -> bytes:
        return json.dumps({"schemaVersion": 2, "path": path, "edition": self.edition}).encode()


class Handler(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        if self.path.startswith("/token?"):
            return self.answer(200, json.dumps({"token": f"t-{self.path}"}).encode())
        repository = self.path.removeprefix("/v2/").partition("/manifests/")[0]
        scope = f"repository:{repository}:pull"
        if scope.replace(":", "%3A").replace("/", "%2F") not in self.headers.get("Authorization", ""):
            ask = f'Bearer realm="{self.server.url}/token",service="registry",scope="{scope}"'
            return self.answer(401, b"{}", {"WWW-Authenticate": ask})
        if repository not in self.server.has or "image.index" not in self.headers["Accept"]:
            return self.answer(404, b"{}")
        body = self.server.manifest(self.path)
        digest = hashlib.sha256(b"" if self.server.lies else body).hexdigest()
        return self.answer(200, body, {"Docker-Content-Digest": f"sha256:{digest}"})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def registry() -> Iterator[Registry]:
    server = Registry(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def digests(registry: Registry, root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        str(ROOT / "docker" / "digests.py"),
        registry.url,
        "--root",
        str(root),
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def texts(root: Path) -> dict[str, str]:
    return {name: (root / name).read_text() for name in FILES}


def test_the_digest_of_what_was_read_is_written_behind_each_tag(registry: Registry, checkout: Path) -> None:
    before = texts(checkout)
    assert digests(registry, checkout, "--check").returncode == 1
    assert texts(checkout) == before
    assert digests(registry, checkout).returncode == 0
    after = texts(checkout)
    body = registry.manifest("/v2/library/rabbitmq/manifests/4.3-alpine")
    pin = f"rabbitmq:4.3-alpine@sha256:{hashlib.sha256(body).hexdigest()}"
    assert f"    image: {pin}\n" in after["compose.yaml"]
    assert f"    image: docker.io/library/{pin}\n" in after["helm/darkroom/values.yaml"]
    assert after["compose.yaml"].count("@sha256:") == 2, "ours are built, and have none"
    assert all(text.count("@sha256:") == 1 for name, text in after.items() if name.startswith("docker/"))
    assert digests(registry, checkout, "--check").returncode == 0
    registry.edition = 2
    assert digests(registry, checkout, "--check").returncode == 1, "a tag has moved"
    assert digests(registry, checkout).returncode == 0
    assert texts(checkout) != after


@pytest.mark.parametrize("fault", ["missing", "lies", "away"])
def test_nothing_is_written_that_was_not_read(registry: Registry, checkout: Path, fault: str) -> None:
    before = texts(checkout)
    if fault == "missing":
        registry.has = registry.has - {"library/python"}
    elif fault == "lies":
        registry.lies = True
    else:
        registry.server_close()
    done = digests(registry, checkout)
    assert done.returncode == 1
    assert "Nothing was written." in done.stderr
    assert texts(checkout) == before

"""HAProxy with docs/haproxy.cfg in front of an API."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.report import ROOT
from cli.services import process
from cli.services.haproxy import find_haproxy

START_S: Final = 30.0
CONFIG: Final = ROOT / "docs" / "haproxy.cfg"
_READY: Final = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@contextmanager
def proxied(folder: Path, api: str, **settings: str) -> Iterator[int]:
    """Starts the proxy before the API at `api` (host:port), yields the port that clients use, and ends it.

    `settings` are those of the file. Raises `ServiceError` if it is not installed or does not start.
    """
    port = process.free_port()
    environ = {**os.environ, "PROXY_BIND": f"127.0.0.1:{port}", "PROXY_API": api, **settings}
    running = process.launch([find_haproxy(), "-db", "-f", str(CONFIG)], folder, environ)
    try:
        process.wait_until(lambda: process.answers(port, _READY, b"HTTP/1.1 200"), running, folder, START_S)
        yield port
    finally:
        process.end(running)

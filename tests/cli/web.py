"""A small web on the loopback, and a server of Darkroom that only remembers: for tests of the crawler."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from PIL import Image

from client.search import Imported

Answer = tuple[int, dict[str, str], bytes]


def png(colour: str | tuple[int, int, int] = "red", size: tuple[int, int] = (16, 16)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


class Web(ThreadingHTTPServer):
    """Answers what `pages` has for a path, and notes every path that is asked for, with its headers."""

    daemon_threads = True

    def __init__(self, pages: dict[str, Answer | Callable[[], Answer]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages = pages
        self.asked: list[str] = []
        self.agents: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Web
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.agents.add(self.headers["User-Agent"])
        found = self.server.pages.get(self.path, (404, {}, b""))
        status, headers, body = found() if callable(found) else found
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def web(pages: dict[str, Answer | Callable[[], Answer]]) -> Iterator[Web]:
    with Web(pages) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Remembering:
    """Has the methods of the client that a crawl calls. `received` are the images, with caption and origin."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, str, str]] = []
        self.faults: list[Exception] = []
        self.questions = 0

    async def imported_files(self, sha256: Sequence[str]) -> dict[str, str]:
        self.questions += 1
        have = {hashlib.sha256(data).hexdigest() for data, _, _ in self.received}
        return {digest: f"{digest}.png" for digest in sha256 if digest in have}

    async def import_image(self, image: bytes, *, caption: str = "", origin: str = "") -> Imported:
        if self.faults:
            raise self.faults.pop(0)
        known = any(data == image for data, _, _ in self.received)
        if not known:
            self.received.append((image, caption, origin))
        return Imported(name="x.png", url="/x.png", added=not known)

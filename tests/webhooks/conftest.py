"""Receivers on loopback that answer as they are told, and keep what they were sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class Receiver:
    """`answers` are given one after the other, the last one for ever. Each is a status, or (status, headers)."""

    url: str
    answers: list[Any] = field(default_factory=lambda: [204])
    hold: threading.Event | None = None
    """Where set, every answer waits for it."""
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, count: int, timeout_s: float = 30.0) -> None:
        """Until that many requests have arrived."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.requests) >= count, timeout_s), len(self.requests)

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.requests]


class _Handler(BaseHTTPRequestHandler):
    receiver: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        with self.receiver.arrived:
            self.receiver.requests.append(({k.lower(): v for k, v in self.headers.items()}, body))
            number = len(self.receiver.requests)
            self.receiver.arrived.notify_all()
        if self.receiver.hold is not None:
            self.receiver.hold.wait(60)
        answer = self.receiver.answers[min(number, len(self.receiver.answers)) - 1]
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
        except OSError:
            return  # it did not wait for us

    do_GET = do_POST  # noqa: N815 - a redirect that is followed would come as one

    def log_message(self, *_: Any) -> None:
        return


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        return


@contextmanager
def receiving(*answers: Any, context: Any = None, host: str = "127.0.0.1") -> Iterator[Receiver]:
    """A receiver on a free port; with an SSL `context`, over TLS."""
    handler = type("Handler", (_Handler,), {})
    server = _Server((host, 0), handler)
    scheme = "http"
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    receiver = Receiver(f"{scheme}://{host}:{server.server_address[1]}/hook", list(answers) or [204])
    handler.receiver = receiver  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        if receiver.hold is not None:
            receiver.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running

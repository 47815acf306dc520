"""A small HTTP server for processes without one: `/metrics` for Prometheus,
`/healthz` and `/readyz` for probes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from runtime.listening import listen

Check = Callable[[], str | None]
"""Returns what is wrong; None when all is well. Called from any thread."""

READ_TIMEOUT_S: Final = 5.0


class OperationServer:
    """Serves on all interfaces from `start` to `stop`.

    `alive` decides `/healthz`, `ready` decides `/readyz`. Raises `SettingsError` for a port in use.
    """

    def __init__(self, port: int, alive: Check, ready: Check) -> None:
        checks: Mapping[str, Check] = {"/healthz": alive, "/readyz": ready}

        class Handler(BaseHTTPRequestHandler):
            timeout = READ_TIMEOUT_S

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    self._answer(200, CONTENT_TYPE_LATEST, generate_latest())
                elif path in checks:
                    fault = checks[path]()
                    body = {"status": "ok"} if fault is None else {"status": "unavailable", "reason": fault}
                    self._answer(200 if fault is None else 503, "application/json", json.dumps(body).encode())
                else:
                    self._answer(404, "text/plain", b"There are /metrics, /healthz and /readyz.\n")

            def log_message(self, *_: object) -> None:
                """Log nothing for probes and scrapes."""

            def _answer(self, status: int, content_type: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        listener = listen("0.0.0.0", port, "DARKROOM_METRICS_PORT")  # noqa: S104 - Prometheus runs on another host
        address = listener.getsockname()
        self._server = ThreadingHTTPServer(address, Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket, self._server.server_address = listener, address
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="operation", daemon=True)

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return self._server.server_address[1]

    def start(self) -> None:
        """Start serving, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving, and close the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

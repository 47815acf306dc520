"""A collector of traces: takes OTLP over HTTP as a real one does, and keeps the spans."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class Seen:
    """One finished span; ids are hex digits, times Unix nanoseconds. `links` are (trace, span) ids."""

    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    started_ns: int
    ended_ns: int
    attributes: dict[str, str]
    links: tuple[tuple[str, str], ...]
    failed: bool


@dataclass
class Collector:
    """Listens from `start` to `stop`."""

    spans: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._arrived = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                collector._take(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_for(self, ready: Callable[[list[Seen]], bool], timeout_s: float = 30.0) -> list[Seen]:
        """The spans, once `ready` says so of them."""
        until = time.monotonic() + timeout_s
        with self._arrived:
            while not ready(self.spans):
                left = until - time.monotonic()
                assert left > 0, sorted({(each.service, each.name) for each in self.spans})
                self._arrived.wait(left)
            return list(self.spans)

    def _take(self, request: ExportTraceServiceRequest) -> None:
        with self._arrived:
            for resource in request.resource_spans:
                service = next(
                    each.value.string_value
                    for each in resource.resource.attributes
                    if each.key == "service.name"
                )
                for scope in resource.scope_spans:
                    self.spans += [
                        Seen(
                            service=service,
                            name=span.name,
                            kind=span.kind,
                            trace_id=span.trace_id.hex(),
                            span_id=span.span_id.hex(),
                            parent_id=span.parent_span_id.hex(),
                            started_ns=span.start_time_unix_nano,
                            ended_ns=span.end_time_unix_nano,
                            attributes={
                                each.key: str(
                                    getattr(each.value, each.value.WhichOneof("value") or "string_value")
                                )
                                for each in span.attributes
                            },
                            links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                            failed=span.status.code == span.status.STATUS_CODE_ERROR,
                        )
                        for span in scope.spans
                    ]
            self._arrived.notify_all()

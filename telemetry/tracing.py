"""Tracing: one trace from the HTTP request over the broker to the image, sent by OTLP.

`DARKROOM_OTLP_ENDPOINT` names the collector. Without it nothing of OpenTelemetry is imported, and a span
costs one comparison. Between processes a trace travels as a W3C `traceparent`
(https://www.w3.org/TR/trace-context/), in headers of HTTP requests and AMQP messages.

A batch belongs to many jobs. So it is a separate trace, whose span links to the jobs' spans and back
(https://opentelemetry.io/docs/concepts/signals/traces/#span-links).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, Literal

from contracts.settings import BackendSettings

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Value = str | int | float | bool

TRACEPARENT: Final = "traceparent"
EXPORT_TIMEOUT_S: Final = 5

_tracer: Any = None
_provider: Any = None


class Span:
    """A span. This base class is used without tracing, and ignores every call."""

    traceparent: str | None = None

    def set(self, attributes: Mapping[str, Value]) -> None:
        """Add attributes, named by OpenTelemetry's semantic conventions, or with the prefix `darkroom.`."""

    def rename(self, name: str) -> None:
        """Replace the span's name."""

    def link(self, traceparent: str | None) -> None:
        """Link to a related span of another trace; None: do nothing."""

    def fail(self, what: str) -> None:
        """Mark the span as failed; `what` is an error's code or type, never its message."""


class _Recorded(Span):
    def __init__(self, span: Any) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def set(self, attributes: Mapping[str, Value]) -> None:
        self._span.set_attributes(attributes)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def link(self, traceparent: str | None) -> None:
        if (context := _context(traceparent)) is not None:
            self._span.add_link(context)

    def fail(self, what: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_status(StatusCode.ERROR, what)
        self._span.set_attribute("error.type", what)


_NO_SPAN: Final = Span()
_NO_TRACE: Final = nullcontext(_NO_SPAN)


def configure(settings: BackendSettings, service: str) -> None:
    """Start tracing this process as `service`, if the settings name a collector."""
    global _tracer, _provider
    if settings.otlp_endpoint is None:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    exporter = OTLPSpanExporter(
        endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT_S
    )
    _provider = TracerProvider(
        resource=Resource.create({"service.name": f"darkroom-{service}", "service.namespace": "darkroom"}),
        sampler=ParentBased(TraceIdRatioBased(settings.trace_sample_ratio)),
        shutdown_on_exit=False,
    )
    _provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = _provider.get_tracer("darkroom")


def shutdown() -> None:
    """Send what has not been sent, and stop tracing."""
    global _tracer, _provider
    if _provider is not None:
        _provider.shutdown()
    _tracer = _provider = None


def span(
    name: str,
    kind: Kind = "internal",
    *,
    parent: str | None = None,
    root: bool = False,
    links: Iterable[str | None] = (),
    attributes: Mapping[str, Value] | None = None,
) -> AbstractContextManager[Span]:
    """A span around the block: under `parent`, in a new trace (`root`), or under the current span.

    An exception that leaves the block marks the span as failed, by the exception's type. Its message is
    not recorded, since it may repeat a prompt.
    """
    if _tracer is None:
        return _NO_TRACE
    return _recorded(name, kind, parent, root, links, attributes)


def current() -> str | None:
    """The `traceparent` of the current span; None where nothing is traced."""
    if _tracer is None:
        return None
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return _Recorded(trace.get_current_span()).traceparent if context.is_valid else None


def current_trace_id() -> str | None:
    """The 32 hex digits of the current trace id, for logs; None where nothing is traced."""
    traceparent = current()
    return None if traceparent is None else traceparent[3:35]


@contextmanager
def _recorded(
    name: str,
    kind: Kind,
    parent: str | None,
    root: bool,
    links: Iterable[str | None],
    attributes: Mapping[str, Value] | None,
) -> Iterator[Span]:
    from opentelemetry import context as contexts
    from opentelemetry import trace

    parent_context = contexts.get_current()
    if root:
        parent_context = contexts.Context()
    elif (remote := _context(parent)) is not None:
        parent_context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
    otel_span = _tracer.start_span(
        name,
        context=parent_context,
        kind=trace.SpanKind[kind.upper()],
        attributes=attributes,
        links=[trace.Link(context) for link in links if (context := _context(link)) is not None],
    )
    with trace.use_span(otel_span, record_exception=False, set_status_on_exception=False, end_on_exit=True):
        recorded = _Recorded(otel_span)
        try:
            yield recorded
        except BaseException as error:
            recorded.fail(type(error).__name__)
            raise


def _context(traceparent: str | None) -> Any:
    """The span context of a `traceparent`; None for no or an invalid `traceparent`."""
    if traceparent is None:
        return None
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    extracted = TraceContextTextMapPropagator().extract({TRACEPARENT: traceparent})
    context = trace.get_current_span(extracted).get_span_context()
    return context if context.is_valid else None

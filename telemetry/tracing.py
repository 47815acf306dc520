"""Traces: one from the HTTP request over the broker to the picture, sent by OTLP where `DARKROOM_OTLP_ENDPOINT` names a collector.

Without it nothing of OpenTelemetry is imported, and a span costs one comparison. Across borders a trace travels as a W3C
`traceparent` (https://www.w3.org/TR/trace-context/): a header of HTTP requests and of AMQP messages.

A batch belongs to many jobs, so it is a trace of its own whose span links to the jobs', and theirs to it
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
    """What is being traced; this one, of a process that does not trace, forgets what it is told."""

    traceparent: str | None = None

    def set(self, attributes: Mapping[str, Value]) -> None:
        """Add attributes; names by the semantic conventions of OpenTelemetry, ours under `darkroom.`."""

    def rename(self, name: str) -> None:
        """Say better what it is."""

    def link(self, traceparent: str | None) -> None:
        """Name a span of another trace that this one has to do with."""

    def fail(self, what: str) -> None:
        """Mark it as failed; `what` is an error's code or type, never its message."""


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


_FORGETFUL: Final = Span()
_NOTHING: Final = nullcontext(_FORGETFUL)


def configure(settings: BackendSettings, service: str) -> None:
    """Begin to trace this process as `service`, if the settings name a collector."""
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
    """Send what has not been sent, and trace no more."""
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
    """A span around what runs inside: under `parent`, or a trace of its own (`root`), or under the current one.

    An exception that leaves it marks it as failed by the exception's type; messages may repeat a prompt.
    """
    if _tracer is None:
        return _NOTHING
    return _recorded(name, kind, parent, root, links, attributes)


def current() -> str | None:
    """The `traceparent` of the span in progress; None where nothing is traced."""
    if _tracer is None:
        return None
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return _Recorded(trace.get_current_span()).traceparent if context.is_valid else None


def current_trace_id() -> str | None:
    """The 32 hex digits of the trace in progress, for the logs."""
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

    above = contexts.get_current()
    if root:
        above = contexts.Context()
    elif (remote := _context(parent)) is not None:
        above = trace.set_span_in_context(trace.NonRecordingSpan(remote))
    started = _tracer.start_span(
        name,
        context=above,
        kind=trace.SpanKind[kind.upper()],
        attributes=attributes,
        links=[trace.Link(found) for each in links if (found := _context(each)) is not None],
    )
    with trace.use_span(started, record_exception=False, set_status_on_exception=False, end_on_exit=True):
        recorded = _Recorded(started)
        try:
            yield recorded
        except BaseException as error:
            recorded.fail(type(error).__name__)
            raise


def _context(traceparent: str | None) -> Any:
    """The remote span that a `traceparent` names; None for none, and for what is not one."""
    if traceparent is None:
        return None
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    found = TraceContextTextMapPropagator().extract({TRACEPARENT: traceparent})
    context = trace.get_current_span(found).get_span_context()
    return context if context.is_valid else None

"""Structured logs: one event name and its fields per line, as JSON, or as aligned text at a terminal.

Prompts and keys are never logged. Jobs are named by id. Lines logged during a request or a job carry its
`request_id`, its `job_id` and, with tracing on, its `trace_id`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from structlog.stdlib import BoundLogger
from structlog.typing import EventDict, Processor, WrappedLogger

from contracts.settings import BackendSettings
from telemetry import tracing

QUIET = ("amqp", "celery", "kombu", "httpx", "httpcore", "urllib3", "diffusers", "transformers", "granian")
"""Libraries whose lines below WARNING are dropped."""


class _Logger(BoundLogger):
    """Checks the level first, so an unwanted line costs nothing."""

    def debug(self, event: str | None = None, *args: Any, **fields: Any) -> Any:
        if self._logger.isEnabledFor(logging.DEBUG):
            return super().debug(event, *args, **fields)
        return None

    def info(self, event: str | None = None, *args: Any, **fields: Any) -> Any:
        if self._logger.isEnabledFor(logging.INFO):
            return super().info(event, *args, **fields)
        return None


def configure(settings: BackendSettings, **fields: Any) -> None:
    """Send our own and all libraries' logs to standard error in one format.

    `fields` (service, worker) are on every line.
    """

    def mark(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        # Not a context variable: threads and servers start with new contexts.
        return {**fields, **event}

    shared: list[Processor] = [
        mark,
        structlog.contextvars.merge_contextvars,
        _add_trace_id,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    console = settings.log_format == "console"
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=_Logger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Add `fields` to every line that is logged in this context, also by tasks started in it.

    None adds no field.
    """
    tokens = structlog.contextvars.bind_contextvars(
        **{name: value for name, value in fields.items() if value is not None}
    )
    try:
        yield
    finally:
        structlog.contextvars.reset_contextvars(**tokens)


def bound_field(name: str) -> str | None:
    """The current value of the field `name` that `bound` has set; None: it is not set."""
    value = structlog.contextvars.get_contextvars().get(name)
    return None if value is None else str(value)


def get_logger(name: str) -> BoundLogger:
    """A logger whose methods take an event name and fields: `log.info("batch_done", images=8)`."""
    logger: BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def _add_trace_id(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    trace_id = tracing.current_trace_id()
    if trace_id is not None:
        event["trace_id"] = trace_id
    return event

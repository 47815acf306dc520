"""Structured logs: one event name and its fields per line, JSON in production, aligned text at a terminal.

Prompts and keys are never logged; jobs are named by id. Lines written while a request or a job is worked on carry its
`request_id`, `job_id` and, where traces are on, `trace_id`.
"""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager
from typing import Any

import structlog
from structlog.stdlib import BoundLogger
from structlog.typing import EventDict, Processor, WrappedLogger

from contracts.settings import BackendSettings
from telemetry import tracing

QUIET = ("amqp", "celery", "kombu", "httpx", "httpcore", "urllib3", "diffusers", "transformers", "granian")


def configure(settings: BackendSettings, **fields: Any) -> None:
    """Send our own and all libraries' logs to standard error in one form. `fields` (service, worker) mark each line."""

    def mark(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        # Not a context variable: threads and servers begin contexts of their own.
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
        # First: a line that is not wanted must cost nothing.
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=BoundLogger,
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


def bound(**fields: Any) -> AbstractContextManager[None]:
    """Mark every line that is written inside, here and in the tasks begun here."""
    known = {name: value for name, value in fields.items() if value is not None}
    return structlog.contextvars.bound_contextvars(**known)


def bound_field(name: str) -> str | None:
    """What lines are now marked with under `name`."""
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

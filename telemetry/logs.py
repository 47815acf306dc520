"""Structured logs: one event name and its fields per line, JSON in production, aligned text at a terminal.

Prompts and keys are never logged; jobs are named by id.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from structlog.stdlib import BoundLogger
from structlog.typing import Processor

from contracts.settings import BackendSettings

QUIET = ("amqp", "celery", "kombu", "httpx", "httpcore", "urllib3", "diffusers", "transformers", "granian")


def configure(settings: BackendSettings, **fields: Any) -> None:
    """Send our own and all libraries' logs to standard error in one form. `fields` (service, worker) mark each line."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
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
    structlog.contextvars.bind_contextvars(**fields)


def get_logger(name: str) -> BoundLogger:
    """A logger whose methods take an event name and fields: `log.info("batch_done", images=8)`."""
    logger: BoundLogger = structlog.stdlib.get_logger(name)
    return logger

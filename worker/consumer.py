"""Celery's consumer, less what we never use, and with one answer to what is not ours."""

from __future__ import annotations

import logging
from typing import Any, ClassVar, Final

from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from telemetry.logs import get_logger

RECONNECT_S: Final = 2.0

log = get_logger(__name__)


class JobConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer without native delayed delivery, which would declare dozens of queues that we never use; with short
    waits between attempts to connect; and with one answer to what is no job of ours."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        default_steps: ClassVar[list[str]] = [
            step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in str(step)
        ]

    def ensure_connected(self, connection: Any) -> Any:
        # Celery's own waits grow to half a minute.
        def away(error: Exception, interval_s: float) -> None:
            log.warning("broker_away", error=type(error).__name__, again_in_s=interval_s)

        connected = connection.ensure_connection(
            away,
            None,
            callback=maybe_shutdown,
            interval_start=0.2,
            interval_step=0.3,
            interval_max=RECONNECT_S,
        )
        self.first_connection_attempt = False
        return connected

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._refuse(message, type(exc).__name__)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._refuse(message, type(exc).__name__)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._refuse(message, "unknown task")

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self._refuse(message, "no task")

    def _refuse(self, message: Any, reason: str) -> None:
        # Celery acks some of these, and logs their bodies, which may hold a prompt.
        log.error("message_refused", reason=reason)
        message.reject_log_error(logging.getLogger(__name__), self.connection_errors)

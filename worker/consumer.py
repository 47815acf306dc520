"""Celery's consumer without unused parts.

It handles every message that is no job in the same way.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar, Final

from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from telemetry.logs import get_logger

RECONNECT_S: Final = 2.0
"""The longest pause between two attempts to connect to the broker."""

log = get_logger(__name__)


class JobConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, changed in three ways.

    It has no native delayed delivery, which would declare dozens of unused queues. It pauses only
    briefly between attempts to connect. It rejects every message that is no job, without a requeue.
    """

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """Celery's startup steps without delayed delivery."""

        default_steps: ClassVar[list[str]] = [
            step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in str(step)
        ]

    def ensure_connected(self, connection: Any) -> Any:
        """Connect, and retry until it works. Celery's own pauses grow to half a minute."""

        def broker_away(error: Exception, interval_s: float) -> None:
            log.warning("broker_away", error=type(error).__name__, again_in_s=interval_s)

        connected = connection.ensure_connection(
            broker_away,
            None,
            callback=maybe_shutdown,
            interval_start=0.2,
            interval_step=0.3,
            interval_max=RECONNECT_S,
        )
        self.first_connection_attempt = False
        return connected

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Reject a message whose body cannot be decoded."""
        self._refuse(message, type(exc).__name__)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Reject a task message that Celery finds invalid."""
        self._refuse(message, type(exc).__name__)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Reject a message for a task that this application does not have."""
        self._refuse(message, "unknown task")

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Reject a message that is no task message."""
        self._refuse(message, "no task")

    def _refuse(self, message: Any, reason: str) -> None:
        # Celery would ack some of these, and log their bodies, which may contain a prompt.
        log.error("message_refused", reason=reason)
        message.reject_log_error(logging.getLogger(__name__), self.connection_errors)

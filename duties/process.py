"""What the processes that do duties have in common: they take messages until they are told to end."""

from __future__ import annotations

from typing import Any, Protocol

from contracts import exit_codes
from duties.queue import DutyQueue
from telemetry import logs, tracing


class DutyRuntime(Protocol):
    """The running parts of a process, which has been started."""

    queue: DutyQueue[Any]

    def stop(self) -> None:
        """End all of it."""
        ...


def consume(runtime: DutyRuntime, name: str, concurrency: int, log_level: str) -> int:
    """Run duties until SIGTERM or SIGINT, `concurrency` at once, and stop the runtime. `name` is that of the process in the log.

    Returns the exit status (`contracts.exit_codes`).
    """
    log = logs.get_logger(name)
    try:
        runtime.queue.consume(concurrency, log_level)
    except SystemExit as ended:
        # Celery's worker always ends with SystemExit, whatever the cause.
        log.info("consumer_ended", code=str(ended.code))
    finally:
        runtime.stop()
        tracing.shutdown()
    return exit_codes.ENDED

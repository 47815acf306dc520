"""How a process ends at SIGTERM before it has begun to consume."""

from __future__ import annotations

import signal
from typing import Never

from contracts import exit_codes


def leave_at_sigterm() -> None:
    """SIGTERM ends the process in order, until something else takes the signal, as Celery's worker does.

    Call it on the main thread, which raises `SystemExit` wherever it is.
    """
    signal.signal(signal.SIGTERM, _leave)


def _leave(*_: object) -> Never:
    raise SystemExit(exit_codes.ENDED)

"""How long a duty waits for its next attempt. Pure; chance is an argument."""

from __future__ import annotations

from typing import Final

JITTER: Final = 0.1
"""The share of a delay by which it varies either way."""
MAX_RETRY_AFTER_S: Final = 86_400.0
"""The longest `Retry-After` that is obeyed, in seconds."""


def varied(delay_s: float, chance: float) -> float:
    """The delay, varied by a tenth either way by `chance` in [0, 1): duties that failed together come apart."""
    return delay_s * (1 - JITTER + 2 * JITTER * chance)


def retry_after_s(header: str | None) -> float | None:
    """The seconds in a `Retry-After` header.

    None: there is no header, or it holds a date, which we may ignore.
    """
    if header is None or not (header.isascii() and header.isdigit()):
        return None
    return MAX_RETRY_AFTER_S if len(header) > 6 else float(header)

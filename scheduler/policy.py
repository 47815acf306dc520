"""What runs next: work-conserving batching by key, the oldest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from contracts.engine import BatchKey

ANYONE = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """An image that waits for the device. Images share a batch when key and group are equal; a group other than
    `ANYONE` is set apart after a failure, to find the culprit."""

    key: BatchKey
    group: int = ANYONE


def choose(waiting: Sequence[Waiting], limit_of: Callable[[BatchKey], int]) -> list[int]:
    """The indices of the next batch, given what waits, oldest first; empty only if nothing waits.

    The oldest image always goes, so none starves; those that may share its batch go with it, oldest first, up to
    `limit_of` its key. Nothing is held back for a fuller batch: while the device is busy the next one fills by
    itself, and while it is idle holding would only add latency.
    """
    if not waiting:
        return []
    oldest = waiting[0]
    limit = max(1, limit_of(oldest.key))
    return [index for index, image in enumerate(waiting) if image == oldest][:limit]

"""Waits for the futures of one job."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


async def outcomes_of(futures: Sequence[asyncio.Future[T]]) -> list[T | BaseException]:
    """The result or exception of each future, in their order, once all are done.

    If the caller is canceled, all futures are canceled too. `asyncio.gather` with
    `return_exceptions` does the same, but takes three rounds of the event loop where a job of one
    image needs one.
    """
    outcomes: list[T | BaseException] = []
    try:
        for future in futures:
            try:
                outcomes.append(await future)
            except asyncio.CancelledError as error:
                if _is_canceled():
                    raise
                outcomes.append(error)
            except Exception as error:  # noqa: BLE001 - it is the outcome
                outcomes.append(error)
    except asyncio.CancelledError:
        for future in futures:
            future.cancel()
        raise
    return outcomes


def _is_canceled() -> bool:
    """Whether the current task is canceled, rather than the future it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

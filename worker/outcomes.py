"""Waiting for the futures of one job."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


async def outcomes_of(futures: Sequence[asyncio.Future[T]]) -> list[T | BaseException]:
    """What became of each, in their order, once all are done. Where the caller is canceled, so are they.

    As `asyncio.gather` with `return_exceptions`, which takes three rounds of the event loop where one will do for a job of one image.
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
            except Exception as error:  # noqa: BLE001 - it is what became of it
                outcomes.append(error)
    except asyncio.CancelledError:
        for future in futures:
            future.cancel()
        raise
    return outcomes


def _is_canceled() -> bool:
    """Whether it is the task in progress that is canceled, and not what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

"""The only way in which the platform ends asyncio tasks."""

from __future__ import annotations

import asyncio
from typing import Any, Final

AGAIN_S: Final = 0.5


async def end(*tasks: asyncio.Task[Any]) -> list[Any]:
    """Cancel the tasks until all have ended. Returns what each one returned or raised.

    One cancellation is not always enough. Before Python 3.12, `asyncio.wait_for` swallows a cancellation
    that arrives together with its result, and redis-py uses it for what it sends. The task would then run
    on for ever. If the caller is canceled meanwhile, `CancelledError` is raised once the tasks have ended.
    """
    canceled = None
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        try:
            await asyncio.wait(running, timeout=AGAIN_S)
        except asyncio.CancelledError as error:
            canceled = error
    if canceled is not None:
        raise canceled
    return await asyncio.gather(*tasks, return_exceptions=True)

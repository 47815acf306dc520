"""The one way in which tasks are ended."""

from __future__ import annotations

import asyncio
from typing import Any, Final

AGAIN_S: Final = 0.5


async def end(*tasks: asyncio.Task[Any]) -> list[Any]:
    """Cancels the tasks until all have ended, and answers what each returned or raised.

    One cancellation is not always enough: before Python 3.12, `asyncio.wait_for` swallows one that arrives along with its
    result, and redis-py waits in this way for what it sends. A loop would then run on for ever. Whoever waits here and is
    canceled meanwhile is told so only once the tasks have ended.
    """
    canceled = None
    while going := [task for task in tasks if not task.done()]:
        for task in going:
            task.cancel()
        try:
            await asyncio.wait(going, timeout=AGAIN_S)
        except asyncio.CancelledError as error:
            canceled = error
    if canceled is not None:
        raise canceled
    return await asyncio.gather(*tasks, return_exceptions=True)

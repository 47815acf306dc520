"""The deliveries that a worker holds, by job, and the jobs that recently ended here.

Messages of such jobs may still come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, KeysView
from concurrent import futures
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

from runtime.lru import LruCache
from worker.receipt import Receipt

RECENTLY_ENDED: Final = 4096
"""How many ended jobs are remembered."""


class Verdict(StrEnum):
    """How a delivery is answered."""

    ACK = "ack"
    REQUEUE = "requeue"


class Deliveries:
    """The held deliveries. Use it on the event loop; only `has_ended` is safe on any thread."""

    def __init__(self) -> None:
        self._held: dict[str, asyncio.Future[bool]] = {}
        self._recently_ended = LruCache[str, bool](RECENTLY_ENDED)
        """Job ids."""
        self._check_tasks: set[asyncio.Task[None]] = set()

    @property
    def job_ids(self) -> KeysView[str]:
        """The jobs of all held deliveries."""
        return self._held.keys()

    @contextmanager
    def held(self, job_id: str) -> Iterator[asyncio.Future[bool]]:
        """Count a delivery of the job as held while inside.

        The future is done when the job has ended here. All deliveries of one job share it.
        """
        ended = self._expect(job_id)
        try:
            yield ended
        finally:
            if self._held.get(job_id) is ended:
                del self._held[job_id]

    def hold(
        self,
        receipt: Receipt,
        answer: futures.Future[Verdict],
        patience_s: float,
        hold_delivery: Callable[[Receipt, float], Awaitable[Verdict]],
    ) -> None:
        """Ack the delivery, through `answer`, when its job ends here.

        If it has not ended within `patience_s` seconds, `hold_delivery` takes over: it gets the
        receipt and 0.0, the seconds before its first check, and gives the verdict.
        """
        if self.has_ended(receipt.job_id):
            answer.set_result(Verdict.ACK)
            return

        def start_checking() -> None:
            task = asyncio.create_task(_check_and_answer(receipt, answer, hold_delivery))
            self._check_tasks.add(task)
            task.add_done_callback(self._check_tasks.discard)

        def ended(_: asyncio.Future[bool]) -> None:
            timer.cancel()
            if not answer.done():
                answer.set_result(Verdict.ACK)

        timer = asyncio.get_running_loop().call_later(patience_s, start_checking)
        self._expect(receipt.job_id).add_done_callback(ended)

    def ended(self, job_id: str) -> None:
        """Record that the job has ended here, in the store too.

        Its deliveries are acked, also later ones.
        """
        self._recently_ended[job_id] = True
        waiting = self._held.pop(job_id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(True)

    def has_ended(self, job_id: str) -> bool:
        """Whether the job recently ended here."""
        return job_id in self._recently_ended

    def _expect(self, job_id: str) -> asyncio.Future[bool]:
        ended = self._held.get(job_id)
        if ended is None:
            ended = self._held[job_id] = asyncio.get_running_loop().create_future()
        return ended


async def _check_and_answer(
    receipt: Receipt,
    answer: futures.Future[Verdict],
    hold_delivery: Callable[[Receipt, float], Awaitable[Verdict]],
) -> None:
    try:
        verdict = await hold_delivery(receipt, 0.0)
    except asyncio.CancelledError:
        answer.cancel()
        raise
    except Exception as error:  # noqa: BLE001 - it is the answer
        if not answer.done():
            answer.set_exception(error)
    else:
        if not answer.done():
            answer.set_result(verdict)

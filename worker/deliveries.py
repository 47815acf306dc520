"""The deliveries in a worker's hands by their jobs, and the jobs that ended here lately, whose messages may still come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, KeysView
from concurrent import futures
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

from worker.receipt import Receipt

LATELY: Final = 4096
"""Ended jobs that are remembered."""


class Verdict(StrEnum):
    """What becomes of a delivery."""

    ACK = "ack"
    REQUEUE = "requeue"


class Deliveries:
    """Belongs to the event loop; only `has_ended` may be asked from any thread."""

    def __init__(self) -> None:
        self._held: dict[str, asyncio.Future[bool]] = {}
        self._lately: dict[str, None] = {}
        """The oldest first."""
        self._doubted: set[asyncio.Task[None]] = set()

    @property
    def job_ids(self) -> KeysView[str]:
        """The jobs of all that is held."""
        return self._held.keys()

    @contextmanager
    def held(self, job_id: str) -> Iterator[asyncio.Future[bool]]:
        """A delivery of the job is in hand while inside. The future is done when the job has ended here; those who hold one of the same
        job share it."""
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
        """Acks the delivery when its job ends here. One of which that is not so within `patience_s` is left to `hold_delivery`, which is to look
        after it at once."""
        if self.has_ended(receipt.job_id):
            answer.set_result(Verdict.ACK)
            return

        def doubt() -> None:
            task = asyncio.create_task(_leave(receipt, answer, hold_delivery))
            self._doubted.add(task)
            task.add_done_callback(self._doubted.discard)

        def ended(_: asyncio.Future[bool]) -> None:
            doubtful.cancel()
            if not answer.done():
                answer.set_result(Verdict.ACK)

        doubtful = asyncio.get_running_loop().call_later(patience_s, doubt)
        self._expect(receipt.job_id).add_done_callback(ended)

    def ended(self, job_id: str) -> None:
        """The job has ended here, and the store knows it: its delivery may be acked, now or when it comes."""
        self._lately[job_id] = None
        if len(self._lately) > LATELY:
            del self._lately[next(iter(self._lately))]
        waits = self._held.pop(job_id, None)
        if waits is not None and not waits.done():
            waits.set_result(True)

    def has_ended(self, job_id: str) -> bool:
        """Whether the job was lately seen to end here."""
        return job_id in self._lately

    def _expect(self, job_id: str) -> asyncio.Future[bool]:
        ended = self._held.get(job_id)
        if ended is None:
            ended = self._held[job_id] = asyncio.get_running_loop().create_future()
        return ended


async def _leave(
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

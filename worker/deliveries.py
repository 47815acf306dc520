"""The deliveries in a worker's hands by their jobs, and the jobs that ended here lately, whose messages may still come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, KeysView
from contextlib import contextmanager
from typing import Final

LATELY: Final = 4096
"""Ended jobs that are remembered."""


class Deliveries:
    """Belongs to the event loop; only `has_ended` may be asked from any thread."""

    def __init__(self) -> None:
        self._held: dict[str, asyncio.Future[bool]] = {}
        self._lately: dict[str, None] = {}
        """The oldest first."""

    @property
    def job_ids(self) -> KeysView[str]:
        """The jobs of all that is held."""
        return self._held.keys()

    @contextmanager
    def held(self, job_id: str) -> Iterator[asyncio.Future[bool]]:
        """A delivery of the job is in hand while inside. The future is done when the job has ended here; those who hold one of the same
        job share it."""
        ended = self._held.setdefault(job_id, asyncio.get_running_loop().create_future())
        try:
            yield ended
        finally:
            if self._held.get(job_id) is ended:
                del self._held[job_id]

    def ended(self, job_id: str) -> None:
        """The job has ended here, and the store knows it: its delivery may be acked, now or when it comes."""
        self._lately[job_id] = None
        if len(self._lately) > LATELY:
            del self._lately[next(iter(self._lately))]
        waits = self._held.get(job_id)
        if waits is not None and not waits.done():
            waits.set_result(True)

    def has_ended(self, job_id: str) -> bool:
        """Whether the job was lately seen to end here."""
        return job_id in self._lately

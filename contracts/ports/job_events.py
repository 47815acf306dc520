"""The port of job events: changes of a job, for those who wait for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from contracts.jobs import Change

ChangeListener = Callable[[Change | None], object]
"""A listener for changes of a job; None: no more changes will come."""


class JobEvents(Protocol):
    """Notifies those who wait for a job to change."""

    def subscribe(self, job_id: str, listener: ChangeListener) -> AbstractAsyncContextManager[None]:
        """Call `listener` on this event loop for every change of the job; it must not raise.

        The subscription is active once the context is entered, so a change after that is not missed.
        `listener(None)` means that no more changes will come.
        """
        ...

    def canceled(self, worker_id: str) -> AsyncGenerator[str]:
        """Ids of canceled jobs that this worker holds.

        The generator ends with its connection and may miss some ids. `contracts.ports.job_store.JobStore.renew`
        reports those later.
        """
        ...

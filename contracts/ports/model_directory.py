"""The port of the model directory."""

from __future__ import annotations

from typing import Protocol

from contracts.models import Announced, ModelSpec, WorkerInfo


class ModelDirectory(Protocol):
    """Which models are served, and by which workers. Workers announce them, the API reads them."""

    async def announce(self, spec: ModelSpec, worker: WorkerInfo) -> None:
        """Announce that `worker` is alive and serves `spec`. Valid for the directory's time to live."""
        ...

    async def withdraw(self, worker: WorkerInfo) -> None:
        """Remove a worker that stops."""
        ...

    async def models(self) -> Announced:
        """Every model that was ever announced, with its live workers."""
        ...

    async def remember_cost(self, model: str, device: str, cost: str) -> None:
        """Save what a worker has learnt of the model's speed on this kind of device (`scheduler.cost`)."""
        ...

    async def recall_cost(self, model: str, device: str) -> str | None:
        """What `remember_cost` last saved; None: nothing."""
        ...

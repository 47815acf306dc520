"""The port of the engine: a model on a device."""

from __future__ import annotations

from typing import Protocol

from contracts.engine import Advanced, Batch
from contracts.models import ModelSpec


class ImageEngine(Protocol):
    """A loaded model on a device. It lives in a child process, and one thread calls it."""

    def load(self) -> ModelSpec:
        """Load the weights, warm up, and return the model's specification.

        Raises on a bad model: the worker stops.
        """
        ...

    def advance(self, batch: Batch) -> list[Advanced]:
        """Run one batch. Returns one entry per sample, in the order of `batch.samples`.

        Raises `contracts.failures.OutOfMemory` when the batch does not fit into memory. Any other exception
        means that the batch failed as a whole and may be bisected. After an exception the engine has dropped
        every sample of the batch. Samples that run again must join again.
        """
        ...

    def peak_memory_bytes(self) -> int | None:
        """Peak device memory of the last batch in bytes, weights included;
        None where the device does not report it."""
        ...

    def free_memory(self) -> None:
        """Free what a failed batch has left in caches. Called after `advance` has raised.

        Raises any exception if the device no longer responds. The process then ends, since only a new
        process can use the device again.
        """
        ...

"""How large a batch may be: the configured limit, lowered where the device ran out of memory."""

from __future__ import annotations

from contracts.engine import BatchKey

PROBE_AFTER = 64
"""After this many full batches in a row, a lowered limit is raised by one: memory may have become free."""


class BatchLimits:
    """Remembers, per batch key, the largest batch that fits. Pure state; not thread-safe."""

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._limits: dict[BatchKey, int] = {}
        self._full: dict[BatchKey, int] = {}
        self._proven: dict[BatchKey, int] = {}

    def limit(self, key: BatchKey) -> int:
        """How many images may run together under `key`."""
        return self._limits.get(key.work, self._max_batch)

    def out_of_memory(self, key: BatchKey, size: int) -> None:
        """Lower the limit: a batch of `size` did not fit.

        After a failed probe the limit before it holds again. Otherwise the limit is halved.
        """
        proven = self._proven.pop(key.work, 0)
        self._limits[key.work] = proven if 0 < proven == size - 1 else max(1, min(self.limit(key), size) // 2)
        self._full[key.work] = 0

    def fitted(self, key: BatchKey, size: int) -> None:
        """Record that a batch of `size` ran."""
        limit = self.limit(key)
        if limit == self._max_batch or size < limit:
            return
        self._full[key.work] = self._full.get(key.work, 0) + 1
        if self._full[key.work] >= PROBE_AFTER:
            self._proven[key.work] = limit
            self._limits[key.work] = limit + 1
            self._full[key.work] = 0

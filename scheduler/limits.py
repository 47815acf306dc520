"""How large a batch may be: the configured limit, less what the device has shown that it cannot hold."""

from __future__ import annotations

from contracts.engine import BatchKey

PROBE_AFTER = 64
"""Full batches in a row after which a lowered limit is tried one higher: memory may have come free again."""


class BatchLimits:
    """Remembers, per batch key, the largest batch that fits. Pure state; not for several threads."""

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._limits: dict[BatchKey, int] = {}
        self._full: dict[BatchKey, int] = {}
        self._proven: dict[BatchKey, int] = {}

    def limit(self, key: BatchKey) -> int:
        """Images that may run together under `key`."""
        return self._limits.get(key.work, self._max_batch)

    def out_of_memory(self, key: BatchKey, size: int) -> None:
        """A batch of `size` did not fit: half of it may; if it was the one that was tried, the one before it does."""
        proven = self._proven.pop(key.work, 0)
        self._limits[key.work] = proven if 0 < proven == size - 1 else max(1, min(self.limit(key), size) // 2)
        self._full[key.work] = 0

    def fitted(self, key: BatchKey, size: int) -> None:
        """A batch of `size` ran."""
        limit = self.limit(key)
        if limit == self._max_batch or size < limit:
            return
        self._full[key.work] = self._full.get(key.work, 0) + 1
        if self._full[key.work] >= PROBE_AFTER:
            self._proven[key.work] = limit
            self._limits[key.work] = limit + 1
            self._full[key.work] = 0

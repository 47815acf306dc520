"""What the outboxes in Redis have in common: records of duties that fall due, in the shards of the job store."""

from __future__ import annotations

from collections.abc import Sequence

from redis.asyncio import Redis

from contracts.settings import BackendSettings
from store.key_names import Layout
from store.layout import LayoutGuard
from store.scripts import Scripts


class RedisOutbox:
    """An outbox on one Redis server or cluster."""

    def __init__(self, client: Redis, settings: BackendSettings, guard: LayoutGuard, what: str) -> None:
        """`what` names the store in errors."""
        self._client = client
        self._guard = guard
        self._timeout_s = settings.redis_timeout_s
        self._layout = Layout(settings.shards)
        self._scripts = Scripts(client, guard, settings.job_retention_s, settings.redis_timeout_s, what)

    @property
    def skew_s(self) -> float:
        """Seconds by which the store's clock is shifted; for tests only."""
        return self._scripts.skew_s

    @skew_s.setter
    def skew_s(self, seconds: float) -> None:
        self._scripts.skew_s = seconds

    @property
    def shards(self) -> Sequence[str]:
        """One digit for each shard of the store."""
        return self._layout.names

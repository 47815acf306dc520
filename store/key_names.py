"""Names of the Redis keys that Python reads besides the scripts. `lua/prelude.lua` lists them
all."""

from __future__ import annotations

from typing import Final

from contracts.ids import SHARDS, shard_of

PREFIX: Final = "darkroom:"
HOUSE: Final = f"{PREFIX}{{house}}:"
"""The prefix of the keys that concern the whole store."""
ANY: Final = "*"
"""Stands for any shard or model, where a name is a pattern for SCAN."""


def shard_prefix(shard: str) -> str:
    """The prefix of all keys of a shard. Its hash tag keeps them on one node of a cluster."""
    return f"{PREFIX}{{s{shard}}}:"


def fair_prefix(model: str) -> str:
    """The prefix of the keys of a model's fair clock. All shards share one clock per model."""
    return f"{PREFIX}{{fair:{model}}}:"


class Layout:
    """Where the keys of each job are: in one of `number` namespaces, chosen by a digit of the job's
    id.

    `number` divides 16, so each namespace has equally many digits. With 16, each digit has its own.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.names = SHARDS[:number]
        """One digit for each namespace."""
        self.prefixes = tuple(map(shard_prefix, self.names))
        self._prefix = {digit: self.prefixes[int(digit, 16) % number] for digit in SHARDS}

    def name(self, digit: str) -> str:
        """The shard of a digit."""
        return self.names[int(digit, 16) % self.number]

    def prefix(self, digit: str) -> str:
        """The prefix of the keys of a digit."""
        return self._prefix[digit]

    def job_prefix(self, job_id: str) -> str:
        """The prefix of the keys of a job."""
        return self._prefix[shard_of(job_id)]

    def job_key(self, job_id: str) -> str:
        """The key of a job's record."""
        return f"{self.job_prefix(job_id)}job:{job_id}"

    def flight_key(self, key: str) -> str:
        """The key of the computation (the flight) of a cache key."""
        return f"{self._prefix[key[0]]}flight:{key}"

    def tenant_keys(self, tenant: str) -> tuple[str, ...]:
        """The keys of a tenant's jobs by creation time, one for each shard."""
        return tuple(f"{prefix}tenant:{tenant}" for prefix in self.prefixes)

    def tenant_key(self, job_id: str, tenant: str) -> str:
        """The key of a tenant's jobs by creation time, on the job's shard."""
        return f"{self.job_prefix(job_id)}tenant:{tenant}"

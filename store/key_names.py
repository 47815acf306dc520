"""Names of the keys in Redis that Python reads beside the scripts; `lua/prelude.lua` lists them all."""

from __future__ import annotations

from typing import Final

from contracts.ids import SHARDS, shard_of

PREFIX: Final = "darkroom:"
HOUSE: Final = f"{PREFIX}{{house}}:"
"""The prefix of what concerns the store as a whole."""
ANY: Final = "*"
"""In place of a shard or a model, where a name is a pattern for SCAN."""


def shard_prefix(shard: str) -> str:
    """The prefix of all keys of a shard, with the hash tag that keeps them on one node of a cluster."""
    return f"{PREFIX}{{s{shard}}}:"


def fair_prefix(model: str) -> str:
    """The prefix of the keys of a model's fair clock, which is one for all shards."""
    return f"{PREFIX}{{fair:{model}}}:"


class Layout:
    """Where the keys of each job live: in `number` namespaces, of which a digit of the job's id picks one.

    `number` divides 16, so that each namespace has as many digits as any other. With 16 each digit has its own.
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
        """Where the computation of a cache key stands."""
        return f"{self._prefix[key[0]]}flight:{key}"

    def tenant_keys(self, tenant: str) -> tuple[str, ...]:
        """A tenant's jobs by creation, of each shard."""
        return tuple(f"{prefix}tenant:{tenant}" for prefix in self.prefixes)

    def tenant_key(self, job_id: str, tenant: str) -> str:
        """A tenant's jobs by creation, of the job's shard."""
        return f"{self.job_prefix(job_id)}tenant:{tenant}"

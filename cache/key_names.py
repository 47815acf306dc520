"""Names of the keys in Redis that Python reads beside the scripts; `lua/prelude.lua` lists them all."""

from __future__ import annotations

from typing import Final

from contracts import ids

PREFIX: Final = "darkroom:"
ANY: Final = "*"
"""In place of a shard or a model, where a name is a pattern for SCAN."""


def shard_prefix(shard: str) -> str:
    """The prefix of all keys of a shard, with the hash tag that keeps them on one node of a cluster."""
    return f"{PREFIX}{{s{shard}}}:"


def fair_prefix(model: str) -> str:
    """The prefix of the keys of a model's fair clock, which is one for all shards."""
    return f"{PREFIX}{{fair:{model}}}:"


def job_key(job_id: str) -> str:
    return f"{shard_prefix(ids.shard_of(job_id))}job:{job_id}"


def tenant_key(shard: str, tenant: str) -> str:
    """A tenant's jobs on a shard, by creation."""
    return f"{shard_prefix(shard)}tenant:{tenant}"

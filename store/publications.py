"""Files that are being published after a reviewer's release, in Redis: a sorted set by the time of their beginning."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final

from redis.asyncio import Redis

from backends.redis_client import store_errors
from contracts.ports.publications import Publication
from store.reviews import ROOT

WHAT: Final = "publications"
PUBLISHING: Final = f"{ROOT}publishing"
KEEP_S: Final = 3600
"""How long the note of a process that died is looked at. No process stores a file that long after its note."""
_BEGIN: Final = """
redis.call('ZADD', KEYS[1], redis.call('TIME')[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], 2 * ARGV[2])
"""
_UNFINISHED: Final = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', redis.call('TIME')[1] - ARGV[1])
return redis.call('ZRANGE', KEYS[1], 0, -1)
"""


class RedisPublications:
    """The `Publications` on Redis."""

    def __init__(self, client: Redis, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def begin(self, name: str, decided_as: str) -> Publication:
        """Note that a file is about to be stored under its public name."""
        publication = Publication(name, decided_as, secrets.token_hex(8))
        await self._eval(_BEGIN, _member(publication), KEEP_S)
        return publication

    async def end(self, publications: Iterable[Publication]) -> None:
        """Forget them."""
        members = [_member(each) for each in publications]
        if members:
            async with store_errors(WHAT, self._timeout_s):
                await self._client.zrem(PUBLISHING, *members)

    async def unfinished(self) -> Sequence[Publication]:
        """Those that were not ended, the oldest first."""
        return [Publication(*member.split(" ")) for member in await self._eval(_UNFINISHED, KEEP_S)]

    async def _eval(self, script: str, *arguments: str | int) -> Any:
        async with store_errors(WHAT, self._timeout_s):
            call: Any = self._client.eval(script, 1, PUBLISHING, *map(str, arguments))
            return await call


def _member(publication: Publication) -> str:
    return f"{publication.name} {publication.decided_as} {publication.id}"

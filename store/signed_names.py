"""Under which name a file was published once it was signed, in Redis."""

from __future__ import annotations

from typing import Final

from redis.asyncio import Redis

from backends.redis_client import store_errors
from store.key_names import PREFIX

SIGNED_PREFIX: Final = f"{PREFIX}signed:"

_PUT: Final = """
local known = redis.call("GET", KEYS[1])
if not known or known == ARGV[2] then
  known = ARGV[1]
  redis.call("SET", KEYS[1], known, "PX", ARGV[3])
else
  redis.call("PEXPIRE", KEYS[1], ARGV[3])
end
return known
"""
"""KEYS: the source. ARGV: the name, the name that may be replaced, and milliseconds. Answers the name that counts."""


class RedisSignedNames:
    """The `SignedNames` on Redis. Names are kept for `keep_s` seconds after they were used."""

    def __init__(self, client: Redis, timeout_s: float, keep_s: float) -> None:
        self._client = client
        self._put = client.register_script(_PUT)
        self._timeout_s = timeout_s
        self._keep_ms = max(1, int(keep_s * 1000))

    async def get(self, source: str) -> str | None:
        """The name of the signed file of `source`; None: it is not known."""
        async with store_errors("signed names", self._timeout_s):
            name = await self._client.getex(SIGNED_PREFIX + source, px=self._keep_ms)
        return None if name is None else _text(name)

    async def put(self, source: str, name: str, instead_of: str | None = None) -> str:
        """Remember the name, unless another one than `instead_of` is known. Answers the name that counts."""
        async with store_errors("signed names", self._timeout_s):
            counts = await self._put(
                keys=[SIGNED_PREFIX + source], args=[name, instead_of or "", self._keep_ms]
            )
        return _text(counts)


def _text(raw: str | bytes) -> str:
    return raw.decode("ascii") if isinstance(raw, bytes) else raw

"""The audit trail of moderation: an append-only list in which each entry holds the hash of the one
before, so that no entry can be changed, left out or put in unnoticed.

With a key, each hash is signed (HMAC-SHA-256): whoever can write to the store cannot write a new chain. The end
of a list can be cut off; keep the last hash elsewhere to notice that. Entries name no tenant, and no person by name.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis

from backends.redis_client import store_errors
from contracts.documents import Document
from contracts.errors import StoreUnavailable
from store.reviews import ROOT

WHAT: Final = "audit trail"
LOG: Final = f"{ROOT}log"
LOGGED: Final = f"{ROOT}logged"
"""A hash: the number of the entry of each event that is in the trail."""
FIRST: Final = "0" * 64
"""What the first entry holds as the hash of the one before."""
TRIES: Final = 20
_CANONICAL: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)
_APPEND: Final = """
if redis.call('HEXISTS', KEYS[2], ARGV[3]) == 1 then return 1 end
if redis.call('LLEN', KEYS[1]) ~= tonumber(ARGV[1]) then return 0 end
redis.call('RPUSH', KEYS[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[1])
return 1
"""


class LogEntry(Document):
    """One entry. `what` is the event itself; `number` counts from 0.

    `hash` is the SHA-256 of `previous` and of the canonical JSON of number, time and event. `signature` is the
    HMAC of `hash`; empty: there was no key.
    """

    number: int
    id: str
    at: float
    what: dict[str, Any]
    previous: str
    hash: str
    signature: str = ""


def sealed(number: int, id_: str, at: float, what: dict[str, Any], previous: str, key: str) -> LogEntry:
    """The entry with its hash and, if `key` is not empty, its signature. Pure."""
    digest = _digest(number, id_, at, what, previous)
    return LogEntry(
        number=number,
        id=id_,
        at=at,
        what=what,
        previous=previous,
        hash=digest,
        signature=_signature(digest, key) if key else "",
    )


def fault_of(entries: Sequence[LogEntry], key: str, first: int = 0, previous: str = FIRST) -> str | None:
    """What is wrong with a part of the trail, in words; None: nothing. Pure.

    It begins with entry `first`, and `previous` is the hash of the entry before. Without a `key`,
    signatures are not checked.
    """
    for place, entry in enumerate(entries, start=first):
        if entry.number != place:
            return f"entry {place} is missing: entry {entry.number} is in its place"
        if entry.previous != previous:
            return f"entry {place} does not follow the one before it"
        if entry.hash != _digest(entry.number, entry.id, entry.at, entry.what, entry.previous):
            return f"entry {place} was changed"
        if key and not hmac.compare_digest(entry.signature, _signature(entry.hash, key)):
            return f"entry {place} is not signed by this key"
        previous = entry.hash
    return None


class ModerationLog:
    """The trail on one Redis. `key` signs new entries; empty: they are not signed."""

    def __init__(self, client: Redis, timeout_s: float, key: str = "") -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._key = key

    async def append(self, id_: str, at: float, what: dict[str, Any]) -> None:
        """Append an event, unless the event `id_` is in the trail. Raises `StoreUnavailable`."""
        for _ in range(TRIES):
            async with store_errors(WHAT, self._timeout_s):
                async with self._client.pipeline(transaction=True) as pipeline:
                    pipeline.llen(LOG)
                    pipeline.lrange(LOG, -1, -1)
                    length, last = await pipeline.execute()
                previous = LogEntry.model_validate_json(last[0]).hash if last else FIRST
                entry = sealed(length, id_, at, what, previous, self._key)
                call: Any = self._client.eval(
                    _APPEND, 2, LOG, LOGGED, str(length), entry.model_dump_json(), id_
                )
                if await call:
                    return
        raise StoreUnavailable("The audit trail is too busy; try again.")

    async def read(self, first: int, limit: int) -> Sequence[LogEntry]:
        """Up to `limit` entries from number `first` on. Raises `StoreUnavailable`."""
        async with store_errors(WHAT, self._timeout_s):
            call: Any = self._client.lrange(LOG, first, first + limit - 1)
            texts: list[str] = await call
        return [LogEntry.model_validate_json(text) for text in texts]


def _digest(number: int, id_: str, at: float, what: dict[str, Any], previous: str) -> str:
    subject = {"number": number, "id": id_, "at": at, "what": what, "previous": previous}
    return hashlib.sha256(_CANONICAL.encode(subject).encode("ascii")).hexdigest()


def _signature(digest: str, key: str) -> str:
    return hmac.new(key.encode(), digest.encode("ascii"), hashlib.sha256).hexdigest()

"""Sessions of people in Redis: one key for each, which expires with it.

The names of the keys hold the SHA-256 of a session's token. Who reads Redis cannot take a session over.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Final

from redis.asyncio import Redis

from backends.redis_client import store_errors
from contracts.sessions import EVERYBODY, Session
from store.records import read

ROOT: Final = "darkroom:{sessions}:"
WHAT: Final = "session store"


class RedisSessionStore:
    """The `SessionStore` on a Redis server."""

    def __init__(self, client: Redis, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def begin(self, token: str, session: Session, seconds: float) -> None:
        """Store a session, for so many seconds."""
        async with store_errors(WHAT, self._timeout_s):
            await self._client.set(_key("session", token), session.model_dump_json(), px=_ms(seconds))

    async def find(self, token: str) -> Session | None:
        """The session of that token; None: there is none, or it has ended. Raises `RecordUnreadable`."""
        async with store_errors(WHAT, self._timeout_s):
            text = await self._client.get(_key("session", token))
        if text is None:
            return None
        session = read("session", "of a person", partial(_session, text))
        async with store_errors(WHAT, self._timeout_s):
            ends = await self._client.mget(_ended(session.person_id), _ended(EVERYBODY))
        return None if any(end and session.began_at <= float(end) for end in ends) else session

    async def end(self, token: str) -> None:
        """End the session of that token, if there is one."""
        async with store_errors(WHAT, self._timeout_s):
            await self._client.delete(_key("session", token))

    async def end_of(self, person_id: str, now: float, seconds: float) -> None:
        """End all sessions of a person that began until `now`; `EVERYBODY`: those of all. `seconds` is the longest session."""
        async with store_errors(WHAT, self._timeout_s):
            await self._client.set(_ended(person_id), repr(now), px=_ms(seconds))

    async def spend(self, state: str, seconds: float) -> bool:
        """Note that the sign-in of this `state` is completed. False: it was before."""
        async with store_errors(WHAT, self._timeout_s):
            return bool(await self._client.set(_key("spent", state), "1", px=_ms(seconds), nx=True))


def _key(kind: str, secret: str) -> str:
    return f"{ROOT}{kind}:{hashlib.sha256(secret.encode()).hexdigest()}"


def _ended(person_id: str) -> str:
    return f"{ROOT}ended:{person_id}"


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _session(text: str | bytes) -> Session:
    session = Session.model_validate_json(text)
    if not session.readable:
        raise ValueError(f"needs schema {session.min_schema}")
    return session

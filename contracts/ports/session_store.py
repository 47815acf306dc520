"""The port of the sessions of people."""

from __future__ import annotations

from typing import Protocol

from contracts.sessions import Session


class SessionStore(Protocol):
    """Sessions by their secret token, of which only the hash is stored. Raises `StoreUnavailable`."""

    async def begin(self, token: str, session: Session, seconds: float) -> None:
        """Store a session, for so many seconds."""
        ...

    async def find(self, token: str) -> Session | None:
        """The session of that token; None: there is none, or it has ended. Raises `RecordUnreadable`."""
        ...

    async def end(self, token: str) -> None:
        """End the session of that token, if there is one."""
        ...

    async def end_of(self, person_id: str, now: float, seconds: float) -> None:
        """End all sessions of a person that began until `now`; `EVERYBODY`: those of all. `seconds` is the longest session."""
        ...

    async def spend(self, state: str, seconds: float) -> bool:
        """Note that the sign-in of this `state` is completed. False: it was before."""
        ...

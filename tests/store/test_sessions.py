"""Sessions of people in Redis: found by their token alone, and gone when they end."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.errors import RecordUnreadable
from contracts.sessions import EVERYBODY, Session
from contracts.tenancy import Scope
from store.sessions import ROOT
from tests.store.conftest import World

pytestmark = pytest.mark.anyio

TOKEN = "t" * 43


def session(**changed: Any) -> Session:
    given = {
        "issuer": "https://id.example",
        "subject": "7",
        "name": "Ada",
        "scopes": (Scope.MODERATE,),
        "began_at": 1.0,
        "ends_at": 2.0,
    }
    return Session.model_validate({**given, **changed})


async def test_a_session_is_found_by_its_token_until_it_is_ended(world: World) -> None:
    sessions = world.stores.sessions
    await sessions.begin(TOKEN, session(), 60)
    assert await sessions.find(TOKEN) == session()
    assert await sessions.find("u" * 43) is None
    await sessions.end(TOKEN)
    assert await sessions.find(TOKEN) is None
    await sessions.end(TOKEN)


async def test_a_session_expires_and_its_token_is_nowhere(world: World) -> None:
    sessions = world.stores.sessions
    await sessions.begin(TOKEN, session(), 60)
    client = sessions._client  # type: ignore[attr-defined]
    names = [name async for name in client.scan_iter(f"{ROOT}*")]
    assert len(names) == 1
    assert TOKEN not in names[0] + await client.get(names[0])
    assert 59_000 < await client.pttl(names[0]) <= 60_000
    await sessions.begin(TOKEN, session(), 0.001)
    while await client.exists(names[0]):
        pass
    assert await sessions.find(TOKEN) is None


async def test_a_state_is_spent_once(world: World) -> None:
    sessions = world.stores.sessions
    assert await sessions.spend("a", 60)
    assert not await sessions.spend("a", 60)
    assert await sessions.spend("b", 60)


async def test_all_sessions_of_a_person_that_have_begun_are_ended(world: World) -> None:
    sessions = world.stores.sessions
    other = session(subject="8")
    await sessions.begin(TOKEN, session(), 60)
    await sessions.begin("u" * 43, other, 60)
    await sessions.end_of(session().person_id, 1.0, 60)
    assert await sessions.find(TOKEN) is None
    assert await sessions.find("u" * 43) == other
    await sessions.begin(TOKEN, later := session(began_at=1.5), 60)
    assert await sessions.find(TOKEN) == later
    await sessions.end_of(EVERYBODY, 2.0, 60)
    assert await sessions.find(TOKEN) is None
    assert await sessions.find("u" * 43) is None


async def test_a_session_of_a_newer_version_is_no_session_here(world: World) -> None:
    await world.stores.sessions.begin(TOKEN, session(min_schema=99), 60)
    with pytest.raises(RecordUnreadable):
        await world.stores.sessions.find(TOKEN)


def test_a_person_is_named_by_issuer_and_subject_and_in_logs_by_a_hash() -> None:
    ada, other = session(), session(issuer="https://other.example")
    assert ada.person == "https://id.example#7"
    assert ada.person_id != other.person_id
    assert ada.person_id == session(name="Ada Lovelace").person_id
    assert "id.example" not in ada.person_id

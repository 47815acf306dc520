"""The contract of the key store, on one Redis and on a cluster; and what a key is."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from backends.redis_client import connect, pages
from contracts.errors import KeyNotFound
from contracts.tenancy import ApiKey, Limits, Scope, digest_of, id_of, is_token, new_token
from tests.store.conftest import World

pytestmark = pytest.mark.anyio


def key(token: str = "", tenant: str = "acme", created_at: float = 1.0) -> ApiKey:
    token = token or new_token()
    return ApiKey(
        id=id_of(token),
        name="shop",
        tenant=tenant,
        digest=digest_of(token),
        scopes=(Scope.GENERATE,),
        limits=Limits(requests_per_minute=60, burst=5, priorities=("batch",)),
        created_at=created_at,
    )


def test_a_key_is_256_bits_of_which_eight_digits_are_public() -> None:
    tokens = {new_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(is_token(token) and len(token) == 46 for token in tokens)
    assert 62**43 > 2**256
    token = tokens.pop()
    made = key(token)
    assert made.opens_with(token)
    assert not made.opens_with(token[:-1] + ("a" if token[-1] != "a" else "b"))
    assert made.id == token[:11]
    assert made.digest == hashlib.sha256(token.encode()).hexdigest()
    assert token[11:] not in made.model_dump_json()
    assert made.digest not in repr(made)


@pytest.mark.parametrize("text", ["", "dk_", "dk_" + "a" * 42, "dk_" + "a" * 44, "sk_" + "a" * 43])
def test_what_is_not_a_key(text: str) -> None:
    assert not is_token(text)
    assert not is_token("dk_" + "a" * 42 + "\n")
    assert not is_token("dk_" + "a" * 42 + "é")


async def test_a_key_is_found_listed_and_revoked(world: World) -> None:
    keys = world.stores.keys
    older, newer = key(created_at=1.0), key(tenant="other", created_at=2.0)
    assert await keys.create(older)
    assert await keys.create(newer)
    assert await keys.find(older.id) == older
    assert await keys.list() == [newer, older]
    revoked = await keys.revoke(older.id, 5.0)
    assert revoked == older.model_copy(update={"revoked_at": 5.0})
    assert await keys.revoke(older.id, 9.0) == revoked, "the first time counts"
    assert await keys.find(older.id) == revoked
    assert await keys.list() == [newer, revoked]


async def test_an_unknown_key_is_unknown(world: World) -> None:
    assert await world.stores.keys.find("dk_00000000") is None
    assert await world.stores.keys.list() == []
    with pytest.raises(KeyNotFound):
        await world.stores.keys.revoke("dk_00000000", 1.0)


async def test_an_id_is_given_once(world: World) -> None:
    token = new_token()
    first, second = key(token), key(token[:-1] + "_")
    made = await asyncio.gather(world.stores.keys.create(first), world.stores.keys.create(second))
    assert sorted(made) == [False, True]
    assert await world.stores.keys.find(first.id) == (first if made[0] else second)


async def test_redis_never_sees_a_key(world: World) -> None:
    token = new_token()
    await world.stores.keys.create(key(token))
    client = connect(world.settings.redis_url, 2.0)
    everything = [
        await client.hgetall(name)
        async for names in pages(client, "store", 2.0, "*", 100)
        for name in names
        if await client.type(name) == "hash"
    ]
    await client.aclose()
    assert token[:11] in str(everything)
    assert token[11:] not in str(everything)

"""Imported images: recorded and owed to the index in one step, known by the file that was sent, and removed. On one Redis and on a cluster."""

from __future__ import annotations

import pytest

from backends.redis_client import connect
from contracts.errors import StoreFull
from contracts.pictures import Embedding, import_id
from contracts.ports.picture_outbox import Unwanted
from tests.store.conftest import World
from tests.store.made import CLIP, imported, name
from tests.store.test_pictures import scanned, taken, unwanted

pytestmark = pytest.mark.anyio


def digest(number: int) -> str:
    return f"{number:063x}{number % 16:x}"


async def test_an_import_is_recorded_once_and_owed_to_the_index(world: World) -> None:
    store, outbox = world.stores.imports, world.stores.pictures
    assert await store.known("acme", [digest(1)]) == {}
    assert await store.add(imported(name(1)), digest(1))
    assert not await store.add(imported(name(1), caption="another"), digest(1))
    assert not await store.add(imported(name(1), caption="another"), digest(2)), "other bytes, the same image"
    assert await store.known("acme", [digest(1), digest(2), digest(3)]) == {
        digest(1): name(1),
        digest(2): name(1),
    }
    assert await store.known("other", [digest(1)]) == {}
    identity = import_id("acme", name(1))
    assert await taken(world) == [identity]
    (read,) = await outbox.read([identity])
    assert (read.prompt, read.source, read.job_id, read.embedding) == (
        "a red apple",
        "imported",
        identity,
        None,
    )
    assert read.expires_at - read.created_at == pytest.approx(world.settings.blob_retention_s)
    assert await outbox.settle([identity]) == []
    assert [each.name for each in await scanned(world)] == [name(1)], "an index is rebuilt from it"


async def test_an_image_whose_file_was_lost_is_owed_again(world: World) -> None:
    store = world.stores.imports
    await store.add(imported(name(1)), digest(1))
    await world.stores.pictures.settle(await taken(world))
    assert await store.add(imported(name(1), caption="anew"), digest(1), anew=True)
    assert await taken(world) == [import_id("acme", name(1))]
    assert [each.prompt for each in await scanned(world)] == ["anew"]


async def test_what_one_tenant_removes_another_keeps(world: World) -> None:
    store = world.stores.imports
    await store.add(imported(name(1)), digest(1))
    await store.add(imported(name(1), tenant="other"), digest(1))
    assert not await store.remove("third", name(1))
    assert await store.remove("acme", name(1))
    assert not await store.remove("acme", name(1))
    assert await store.in_use(name(1))
    assert await store.known("acme", [digest(1)]) == {}
    assert await store.known("other", [digest(1)]) == {digest(1): name(1)}
    assert await unwanted(world.stores) == [Unwanted("acme", name(1), name(1)[0])]
    assert await taken(world) == [import_id("other", name(1))]
    assert await store.remove("other", name(1))
    assert not await store.in_use(name(1))
    assert await scanned(world) == []


async def test_an_embedding_is_recorded_unless_the_image_was_removed(world: World) -> None:
    store, outbox = world.stores.imports, world.stores.pictures
    for number in (1, 2):
        await store.add(imported(name(number)), digest(number))
    records = await outbox.read(await taken(world))
    assert len(records) == 2
    await store.remove("acme", name(2))
    vector = Embedding.of(CLIP, b"\0\x3c\0\0")
    await outbox.embed([each.model_copy(update={"embedding": vector}) for each in records])
    (left,) = await scanned(world)
    assert (left.name, left.embedding) == (name(1), vector)
    assert left.expires_at == records[0].expires_at, "it lives no longer"


async def test_imports_end_with_their_files(world: World) -> None:
    store = world.stores.imports
    await store.add(imported(name(1)), digest(1))
    world.set_clock(world.settings.blob_retention_s + 1)
    assert await store.known("acme", [digest(1)]) == {}
    assert await taken(world) == []
    client = connect(world.settings.redis_url, 20.0)
    left = [key async for key in client.scan_iter("*import*")]
    await client.aclose()
    assert left == []


async def test_a_full_store_records_nothing(world: World) -> None:
    if world.settings.shards > 1:
        return  # one server is filled, which is the same script
    client = connect(world.settings.redis_url, 20.0)
    await client.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreFull):
            await world.stores.imports.add(imported(name(1)), digest(1))
    finally:
        await client.config_set("maxmemory", "0")
        await client.aclose()
    assert await scanned(world) == []
    assert await world.stores.pictures.owed() == 0

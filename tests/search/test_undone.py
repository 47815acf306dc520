"""A release that was undone: the index forgets the image, and neither a rebuild nor a late duty brings it back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backends.blobs import public_name
from cli.services.redis import RedisServer
from contracts.ids import new_job_id
from contracts.settings import BackendSettings
from contracts.transitions import End
from moderation.carrying import Carrying
from moderation.reviewing import Person, Reviewing
from runtime.clock import SystemClock
from search.embedded import EmbeddedIndex
from search.embedder import Embedder
from search.indexer import Indexer
from search.rebuild import Rebuilder
from store.stores import Stores, open_stores
from tests.search import made
from tests.search.test_imported import Colours
from tests.store.held import held_image, image, result_of
from tests.store.made import led, new
from tests.stores import backend, empty

pytestmark = pytest.mark.anyio

ADA = Person("dk_12345678", "Ada")


@dataclass
class Desk:
    """A reviewer's desk beside an index."""

    stores: Stores
    reviewing: Reviewing
    indexer: Indexer
    index: EmbeddedIndex
    rebuilder: Rebuilder

    async def held(self, *, shown: int = 0) -> tuple[str, str]:
        """A job with one held image, and so many that are shown. Answers its id and the name of the held one."""
        job = new()
        name = public_name(await self.stores.blobs.put(b"a held image", "png", is_held=True))
        picture = made.record(1, "public", job_id=job.id).model_copy(update={"name": name})
        held = held_image(1, picture=picture).model_copy(update={"name": name})
        images = [image(1).model_copy(update={"name": f"held/{name}"})]
        images += [image(2 + number, "passed") for number in range(shown)]
        records = tuple(made.record(2 + number, "public", job_id=job.id) for number in range(shown))
        end = End(await led(self.stores.jobs, job), result_of(*images), None, records, (held,))
        await self.stores.jobs.end_many([end])
        return job.id, name

    async def rebuilt(self) -> int:
        """How many images a rebuilt index has."""
        self.rebuilder.ask()
        await self.rebuilder.work()
        return await self.index.count()


@pytest.fixture
async def desk(anyio_backend: str, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Desk]:
    empty(redis_server)
    stores = open_stores(BackendSettings(**backend(redis_server, tmp_path / "blobs", 0)))
    clock, index, embedder = SystemClock(), EmbeddedIndex(tmp_path / "index", 1000), Embedder(Colours())
    await index.open(made.CLIP, made.DIMENSIONS)
    indexer = Indexer(stores.pictures, index, embedder, stores.blobs, clock)
    carrying = Carrying(stores, stores.moderation_log, clock, 3600.0)
    reviewing = Reviewing(stores.reviews, carrying, stores.moderation_log, clock)
    rebuilder = Rebuilder(stores.pictures, index, indexer, stores.rebuilds, clock, new_job_id(1.0, "a"))
    yield Desk(stores, reviewing, indexer, index, rebuilder)
    await index.close()
    embedder.close()
    await stores.close()


@pytest.mark.parametrize("choice", ["undo", "refuse"])
@pytest.mark.parametrize("shown", [0, 1])
async def test_a_rebuild_does_not_find_what_was_undone(desk: Desk, choice: str, shown: int) -> None:
    job_id, name = await desk.held(shown=shown)
    await desk.reviewing.decide(name, "release", ADA)
    assert await desk.indexer.add([job_id]) == 1 + shown
    assert await desk.rebuilt() == 1 + shown
    await desk.reviewing.undo(name, ADA)
    if choice == "refuse":
        await desk.reviewing.decide(name, "refuse", ADA)
    await desk.indexer.forget()
    assert await desk.index.count() == shown
    assert await desk.rebuilt() == shown
    assert len(await desk.stores.pictures.read([job_id])) == shown
    if choice == "undo":
        await desk.reviewing.decide(name, "release", ADA)
        assert await desk.indexer.add([job_id]) == 1 + shown, "a second release is found again"


@pytest.mark.parametrize("way", ["add", "rebuild"])
async def test_what_is_undone_on_its_way_into_the_index_leaves_it_again(
    desk: Desk, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record was read before the undo, the index forgets it, and then gets it all the same. The job has another image."""
    job_id, name = await desk.held(shown=1)
    await desk.reviewing.decide(name, "release", ADA)
    put = desk.index.put

    async def overtaken(records: Any) -> Any:
        monkeypatch.setattr(desk.index, "put", put)
        await desk.reviewing.undo(name, ADA)
        await desk.indexer.forget()
        return await put(records)

    monkeypatch.setattr(desk.index, "put", overtaken)
    if way == "add":
        await desk.indexer.add([job_id])
    else:
        await desk.rebuilt()
    assert await desk.index.count() == 1

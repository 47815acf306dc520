"""Imported pictures on their way into the index: grouped, embedded from their files, and the embeddings recorded."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from numpy.typing import NDArray
from PIL import Image

from cli.services.redis import RedisServer
from contracts.pictures import Owed, import_id
from contracts.settings import BackendSettings
from runtime.clock import SystemClock
from search.clip import BATCH_PIXELS, ClipModel, batches
from search.embedded import EmbeddedIndex
from search.embedder import Embedder, Rgb
from search.indexer import DECODED, Indexer
from search.owed import GROUP, grouped
from store.stores import Stores, open_stores
from tests.integration.conftest import ROOT
from tests.search import made
from tests.store.made import imported
from tests.stores import backend, empty

pytestmark = pytest.mark.anyio


def test_duties_share_messages_in_order() -> None:
    duties = [Owed(job_id=str(number)) for number in range(2 * GROUP + 1)]
    messages = grouped(duties)
    assert [len(each.job_ids) for each in messages] == [GROUP, GROUP, 1]
    assert [job_id for each in messages for job_id in each.job_ids] == [duty.job_id for duty in duties]
    assert Owed.model_validate_json('{"job_id": "job_1"}').job_ids == ("job_1",), "of an earlier version"
    assert grouped([]) == []


def test_images_of_one_shape_share_a_batch_within_a_bound() -> None:
    large = (1024, 1024, 3)
    assert batches([(64, 64, 3), large, (64, 64, 3), large, large]) == [[0, 2], [1, 3], [4]]
    assert BATCH_PIXELS == 2 * 1024 * 1024
    assert batches([(4096, 4096, 3)] * 2) == [[0], [1]]


def test_a_batch_has_the_vectors_of_its_images_alone() -> None:
    clip = ClipModel(str(ROOT / "models" / "emoji-clip"))
    rng = np.random.default_rng(3)
    images: list[Rgb] = [
        rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in ((64, 64), (48, 80), (64, 64))
    ]
    together = clip.images(images)
    for image, vector in zip(images, together, strict=True):
        (alone,) = clip.images([image])
        assert np.abs(alone.astype(np.float32) - vector.astype(np.float32)).max() < 2e-3


class Colours:
    """A CLIP whose vectors say the mean colour of an image. `largest` is the largest batch."""

    name = made.CLIP
    dimensions = made.DIMENSIONS

    def __init__(self) -> None:
        self.calls: list[int] = []

    def texts(self, texts: Sequence[str]) -> NDArray[np.float16]:
        raise AssertionError(texts)

    def images(self, images: Sequence[Rgb]) -> NDArray[np.float16]:
        self.calls.append(len(images))
        vectors = np.zeros((len(images), self.dimensions), np.float32)
        vectors[:, :3] = [image.mean(axis=(0, 1)) + 1 for image in images]
        halves: NDArray[np.float16] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(
            np.float16
        )
        return halves


@dataclass
class World:
    """An indexer with its parts, on a real store."""

    indexer: Indexer
    stores: Stores
    clip: Colours
    index: EmbeddedIndex
    folder: Path

    async def imported(self, number: int) -> str:
        file = io.BytesIO()
        Image.new("RGB", (40, 30), (number, 200, 10)).save(file, "PNG")
        name = await self.stores.blobs.put(file.getvalue(), "png")
        await self.stores.imports.add(imported(name, "a"), f"{number:064x}")
        return import_id("a", name)

    async def owed(self) -> int:
        return await self.stores.pictures.owed()

    def path_of(self, name: str) -> Path:
        return self.folder / "blobs" / name[:2] / name


@pytest.fixture
async def world(anyio_backend: str, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[World]:
    empty(redis_server)
    stores = open_stores(BackendSettings(**backend(redis_server, tmp_path / "blobs", 0)))
    clip = Colours()
    index, embedder = EmbeddedIndex(tmp_path / "index", 1000), Embedder(clip)
    await index.open(made.CLIP, made.DIMENSIONS)
    indexer = Indexer(stores.pictures, index, embedder, stores.blobs, SystemClock())
    yield World(indexer, stores, clip, index, tmp_path)
    await index.close()
    embedder.close()
    await stores.close()


async def test_pictures_are_embedded_in_batches_once_and_found(world: World) -> None:
    ids = [await world.imported(number) for number in range(DECODED + 8)]
    assert await world.indexer.add(ids) == len(ids)
    assert sum(world.clip.calls) == len(ids)
    assert len(world.clip.calls) < len(ids) / 4
    assert (await world.index.count(), await world.owed()) == (len(ids), 0)
    records = await world.stores.pictures.read(ids)
    assert all(record.embedding is not None and record.embedding.model == made.CLIP for record in records)
    assert await world.indexer.add(ids) == len(ids), "again, as after a crash"
    assert sum(world.clip.calls) == len(ids), "nothing is embedded a second time"


async def test_a_store_without_room_for_embeddings_keeps_no_picture_from_the_index(
    world: World, redis_server: RedisServer
) -> None:
    ids = [await world.imported(number) for number in range(3)]
    with redis.Redis(port=redis_server.port) as client:
        client.config_set("maxmemory", "1")
        try:
            assert await world.indexer.add(ids) == 3
        finally:
            client.config_set("maxmemory", "0")
    assert (await world.index.count(), await world.owed()) == (3, 0)
    assert all(record.embedding is None for record in await world.stores.pictures.read(ids))


async def test_a_picture_whose_file_is_gone_or_damaged_keeps_no_other_out(world: World) -> None:
    ids = [await world.imported(number) for number in range(3)]
    gone, damaged, _ = await world.stores.pictures.read(ids)
    world.path_of(gone.name).unlink()
    world.path_of(damaged.name).write_bytes(b"\x89PNG\r\n\x1a\n")
    assert await world.indexer.add(ids) == 1
    assert await world.owed() == 0


async def test_a_picture_that_is_removed_while_it_is_embedded_leaves_the_index(world: World) -> None:
    (identity,) = [await world.imported(1)]
    (record,) = await world.stores.pictures.read([identity])

    async def removed(image: Rgb, embed: Any = world.indexer._embedder.image) -> Any:
        await world.stores.imports.remove("a", record.name)
        return await embed(image)

    world.indexer._embedder.image = removed  # type: ignore[method-assign]
    await world.indexer.add([identity])
    assert await world.index.count() == 0
    assert await world.stores.pictures.read([identity]) == []


async def test_a_picture_that_is_imported_again_after_its_removal_stays(world: World) -> None:
    """The index is told of the removal after it has the picture again."""
    identity = await world.imported(1)
    await world.indexer.add([identity])
    (record,) = await world.stores.pictures.read([identity])
    await world.stores.imports.remove("a", record.name)
    assert await world.imported(1) == identity
    await world.indexer.add([identity])
    assert await world.indexer.forget() == 1
    assert [await world.index.count(), await world.owed()] == [1, 0]
    await world.stores.imports.remove("a", record.name)
    assert await world.indexer.forget() == 1
    assert await world.index.count() == 0

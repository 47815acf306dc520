"""The contract of the blob stores: a directory, and an S3 bucket on a real server."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from backends.blobs import DirectoryBlobStore, is_blob_name, is_public_name, public_name
from backends.s3 import S3BlobStore
from contracts.blobs import Deletion
from contracts.errors import (
    BlobStoreFull,
    BlobStoreUnavailable,
    ImageNotFound,
    SettingsError,
    StoreUnavailable,
)
from contracts.ports.blob_store import BlobStore
from contracts.settings import BackendSettings
from runtime.clock import ManualClock
from store.stores import open_blobs

pytestmark = pytest.mark.anyio
DAY_S = 86_400.0
BUCKET = "pictures"


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """A real S3 server on the loopback interface."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(time.time())


@pytest.fixture(params=["directory", "s3"])
async def blobs(
    request: pytest.FixtureRequest, anyio_backend: str, clock: ManualClock, tmp_path: Path
) -> AsyncIterator[BlobStore]:
    if request.param == "directory":
        yield DirectoryBlobStore(tmp_path / "blobs", clock)
    else:
        import boto3

        endpoint = request.getfixturevalue("s3_server")
        request.getfixturevalue("s3_account")
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
        store = S3BlobStore(BUCKET, f"{tmp_path.name}/", endpoint, clock)
        yield store
        await store.close()


async def test_what_is_put_is_there(blobs: BlobStore) -> None:
    name = await blobs.put(b"picture", "png")
    assert await blobs.put(b"picture", "png") == name
    assert await blobs.get(name) == b"picture"
    assert await blobs.exists(name)


@pytest.mark.parametrize("name", ["0" * 64 + ".png", "../../etc/passwd", "", "x" * 64 + ".png"])
async def test_what_is_not_there_is_not_found(blobs: BlobStore, name: str) -> None:
    assert not await blobs.exists(name)
    with pytest.raises(ImageNotFound):
        await blobs.get(name)


async def test_an_input_has_a_name_of_its_own(blobs: BlobStore, clock: ManualClock) -> None:
    drawn = await blobs.put(b"picture", "png")
    given = await blobs.put(b"picture", "png", is_input=True)
    assert given == f"inputs/{drawn}"
    assert await blobs.get(given) == await blobs.get(drawn) == b"picture"
    other = await blobs.put(b"other", "png", is_input=True)
    assert await blobs.exists(other)
    assert not await blobs.exists(other.removeprefix("inputs/")), (
        "it is not found under a drawn picture's name"
    )
    clock.advance(DAY_S + 60)
    assert await blobs.prune(DAY_S, None) == 3, "it ends as all pictures do"
    assert not await blobs.exists(given)


async def test_a_held_image_has_a_name_that_no_public_route_serves(
    blobs: BlobStore, clock: ManualClock
) -> None:
    held = await blobs.put(b"held picture", "png", is_held=True)
    assert held == f"held/{public_name(held)}"
    assert is_blob_name(held)
    assert not is_public_name(held)
    assert not await blobs.exists(public_name(held)), "nothing lies under its public name"
    assert await blobs.get(held) == b"held picture"
    if isinstance(blobs, DirectoryBlobStore):
        assert [name for name, _ in blobs.paths()] == [held], "a backup has it under its private name"
    clock.advance(DAY_S + 60)
    assert await blobs.prune(DAY_S, None) == 0, "its review ends first"
    clock.advance(DAY_S)
    assert await blobs.prune(DAY_S, None) == 1, "no review has deleted it"


async def test_a_held_image_counts_and_does_not_go_to_make_room(blobs: BlobStore, clock: ManualClock) -> None:
    held = await blobs.put(b"1" * 100, "png", is_held=True)
    names = []
    for number in range(2):
        await asyncio.sleep(1.05 if isinstance(blobs, S3BlobStore) else 0.01)
        clock.advance(1)
        names.append(await blobs.put(bytes([number]) * 100, "png"))
    assert await blobs.prune(DAY_S, 250) == 1
    assert [await blobs.exists(name) for name in (held, *names)] == [True, False, True]
    assert await blobs.prune(DAY_S, 50) == 1
    assert [await blobs.exists(name) for name in (held, *names)] == [True, False, False]
    assert await blobs.prune(DAY_S, 50) == 0


async def test_public_names_are_listed_in_order_page_by_page(blobs: BlobStore) -> None:
    names = sorted([await blobs.put(b"picture %d" % number, "png") for number in range(7)])
    await blobs.put(b"held", "png", is_held=True)
    await blobs.put(b"input", "png", is_input=True)
    found: list[str] = []
    while page := await blobs.page(found[-1] if found else "", 3):
        assert len(page) <= 3
        assert all(abs(put_at - time.time()) < 60 for _, put_at in page)
        found += [name for name, _ in page]
    assert found == names
    await blobs.delete(names[3], float("inf"))
    assert [name for name, _ in await blobs.page(names[2], 2)] == names[4:6]


async def test_inputs_count_towards_the_size_of_all(blobs: BlobStore, clock: ManualClock) -> None:
    old = await blobs.put(b"1" * 100, "png", is_input=True)
    await asyncio.sleep(1.05 if isinstance(blobs, S3BlobStore) else 0.01)
    clock.advance(1)
    new = await blobs.put(b"2" * 100, "png")
    assert await blobs.prune(DAY_S, 150) == 1
    assert [await blobs.exists(name) for name in (old, new)] == [False, True]


async def test_one_is_deleted_unless_it_has_been_put_since(blobs: BlobStore, clock: ManualClock) -> None:
    drawn = await blobs.put(b"picture", "png")
    given = await blobs.put(b"picture", "png", is_input=True)
    now = clock.now()
    assert await blobs.delete(drawn, now - 60) is Deletion.YOUNG
    assert await blobs.exists(drawn)
    assert await blobs.delete(drawn, now + 60) is Deletion.DELETED
    assert [await blobs.exists(name) for name in (drawn, given)] == [False, True]
    for name in (drawn, "inputs/" + "0" * 64 + ".png", "../../etc/passwd", ""):
        assert await blobs.delete(name, now + 60) is Deletion.ABSENT


async def test_the_old_go(blobs: BlobStore, clock: ManualClock) -> None:
    name = await blobs.put(b"old", "png")
    assert await blobs.prune(DAY_S, None) == 0
    clock.advance(DAY_S + 60)
    assert await blobs.prune(DAY_S, None) == 1
    assert not await blobs.exists(name)


async def test_beyond_the_size_the_oldest_go(blobs: BlobStore, clock: ManualClock) -> None:
    names = []
    for number in range(3):
        names.append(await blobs.put(bytes([number]) * 100, "png"))
        # Ages are told apart by the second on S3.
        await asyncio.sleep(1.05 if isinstance(blobs, S3BlobStore) else 0.01)
        clock.advance(1)
    assert await blobs.prune(DAY_S, 250) == 1
    assert [await blobs.exists(name) for name in names] == [False, True, True]
    assert await blobs.prune(DAY_S, 250) == 0


async def test_a_picture_that_is_put_again_is_young(
    blobs: BlobStore, anyio_backend: str, clock: ManualClock
) -> None:
    old, again = await blobs.put(b"1" * 100, "png"), await blobs.put(b"2" * 100, "png")
    await asyncio.sleep(1.05 if isinstance(blobs, S3BlobStore) else 0.01)
    clock.advance(1)
    await blobs.put(b"1" * 100, "png")
    assert await blobs.prune(DAY_S, 100) == 1
    assert await blobs.exists(old)
    assert not await blobs.exists(again)


async def test_a_server_that_is_away_says_so(
    anyio_backend: str, s3_account: None, clock: ManualClock
) -> None:
    store = S3BlobStore(BUCKET, "x/", "http://127.0.0.1:9", clock)
    with pytest.raises(StoreUnavailable, match="bucket"):
        await store.put(b"x", "png")
    await store.close()


async def test_a_bucket_that_is_not_there_is_no_missing_picture(
    anyio_backend: str, s3_server: str, s3_account: None, clock: ManualClock
) -> None:
    store = S3BlobStore("absent", "x/", s3_server, clock)
    with pytest.raises(StoreUnavailable, match="NoSuchBucket"):
        await store.get("0" * 64 + ".png")
    await store.close()


def test_settings_choose_the_store(monkeypatch: pytest.MonkeyPatch, s3_account: None, tmp_path: Path) -> None:
    assert isinstance(open_blobs(BackendSettings(blob_dir=tmp_path)), DirectoryBlobStore)
    assert isinstance(open_blobs(BackendSettings(blob_s3_bucket="b")), S3BlobStore)
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(SettingsError, match=r"darkroom\[s3\]"):
        open_blobs(BackendSettings(blob_s3_bucket="b"))


@pytest.mark.parametrize(
    ("number", "error", "cause"),
    [
        (errno.ENOSPC, BlobStoreFull, "full"),
        (errno.EDQUOT, BlobStoreFull, "full"),
        (errno.EROFS, BlobStoreUnavailable, "unavailable"),
    ],
)
async def test_a_directory_without_room_is_told_from_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception], cause: str
) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    def counted() -> float:
        return REGISTRY.get_sample_value("darkroom_blob_store_errors_total", {"cause": cause}) or 0.0

    monkeypatch.setattr("backends.blobs.os.fsync", fails)
    before = counted()
    with pytest.raises(StoreUnavailable, match=os.strerror(number)) as raised:
        await DirectoryBlobStore(tmp_path, ManualClock()).put(b"data", "png")
    assert type(raised.value) is error
    assert counted() - before == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


async def test_blocks_kept_back_for_root_are_no_part_of_the_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system with 252 blocks, 102 of them for root alone: 62 used and 40 free are all there is."""
    size = os.statvfs_result((4096, 4096, 252, 190, 40, 100, 90, 90, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: size)
    free, usable = await DirectoryBlobStore(tmp_path, ManualClock()).space() or (0, 0)
    assert (free, usable) == (40 * 4096, (62 + 40) * 4096)

"""Pictures that find no room in the blob store."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from backends.blobs import DirectoryBlobStore
from contracts.errors import StoreUnavailable
from contracts.jobs import JobStatus
from runtime.clock import SystemClock
from tests.worker.conftest import Room
from worker.deliveries import Verdict

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def full_disks() -> float:
    return REGISTRY.get_sample_value("darkroom_blob_store_errors_total", {"cause": "full"}) or 0.0


class FullDisk:
    """A directory of pictures on a disk without room, until `free`; `asked` counts who tries to write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: Room, folder: Path) -> None:
        self.folder, self.asked, self.full = folder, 0, True
        store, sync = DirectoryBlobStore(folder, SystemClock()), os.fsync

        def fsync(descriptor: int) -> None:
            self.asked += 1
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        monkeypatch.setattr("backends.blobs.os.fsync", fsync)
        monkeypatch.setattr(room.stores.blobs, "put", store.put)

    @property
    def pictures(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]

    async def met(self) -> None:
        async with asyncio.timeout(20):
            while not self.asked:
                await asyncio.sleep(0.01)


async def test_a_job_whose_pictures_find_no_room_in_time_says_so(
    room: Room, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk, before = FullDisk(monkeypatch, room, tmp_path), full_disks()
    message = await room.submit("a", ttl_s=5.0)
    assert await room.run(message) == [Verdict.ACK]
    job = await room.job(message)
    assert (job.status, await room.failure(message)) == (JobStatus.FAILED, "blob_store_full")
    assert job.failure is not None
    assert job.failure.retryable
    assert "no room" in job.failure.message
    assert job.finished_at is not None
    assert job.finished_at < job.deadline
    assert full_disks() - before == disk.asked > 1
    assert disk.pictures == []


async def test_a_job_waits_for_room_while_it_has_time(
    room: Room, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = FullDisk(monkeypatch, room, tmp_path)
    message = await room.submit("a")
    delivery = asyncio.create_task(room.run(message))
    await disk.met()
    disk.full = False
    assert await delivery == [Verdict.ACK]
    assert (await room.job(message)).status is JobStatus.SUCCEEDED
    assert len(disk.pictures) == 1


async def test_a_job_that_has_ended_takes_no_room(
    room: Room, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = FullDisk(monkeypatch, room, tmp_path)
    message = await room.submit("a")
    delivery = asyncio.create_task(room.run(message))
    await disk.met()
    await room.stores.jobs.cancel("public", message.job_id)
    assert await delivery == [Verdict.ACK]
    async with asyncio.timeout(20):
        while room.fetcher._running:
            await asyncio.sleep(0.01)
    disk.full = False
    later = await room.submit("b")
    assert await room.run(later) == [Verdict.ACK]
    result = (await room.job(later)).result
    assert result is not None
    assert [path.name for path in disk.pictures] == [result.images[0].name]


async def test_pictures_that_find_no_place_bound_what_is_taken(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, full = room.stores.blobs.put, asyncio.Event()
    full.set()

    async def sometimes(data: bytes, extension: str, **place: bool) -> str:
        if full.is_set():
            raise StoreUnavailable("no place left")
        return await put(data, extension, **place)

    monkeypatch.setattr(room.stores.blobs, "put", sometimes)
    messages = [await room.submit("a", seed=seed) for seed in range(100)]
    kept = 4 * 16
    async with asyncio.timeout(30):
        while len(room.fetcher._running) < kept - 4:
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.0)
    assert len(room.fetcher._running) <= kept
    full.clear()
    assert set(await room.run(*messages)) == {Verdict.ACK}

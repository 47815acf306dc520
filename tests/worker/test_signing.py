"""Images that are published with content credentials: signed once, whoever draws them again."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from backends.blobs import HELD
from cli.services.redis import RedisServer
from contracts import exit_codes
from contracts.errors import SettingsError, SigningUnavailable
from contracts.jobs import JobStatus
from contracts.ports.image_signer import SigningFailed
from contracts.requests import GenerationRequest
from contracts.settings import WorkerSettings
from moderation.provenance.reading import read
from store.stores import Stores
from tests.moderation.authority import Authority
from tests.moderation.test_provenance import REQUEST, drawn
from tests.stores import opened_stores
from tests.worker.conftest import Room
from worker.signing import SignedImages, open_signed_images

pytestmark = pytest.mark.anyio
T = TypeVar("T")


async def once(step: Callable[[], Awaitable[T]]) -> T | None:
    return await step()


class Numbered:
    """Signs by a number, another one each time. For what is done with signatures."""

    fingerprint = "n"

    def __init__(self) -> None:
        self.signed = 0
        self.away = False

    def says(self, request: GenerationRequest) -> bytes:
        return request.prompt.encode()

    def sign(self, data: bytes, content_type: str, request: GenerationRequest) -> bytes:
        if self.away:
            raise SigningFailed("the key service is away")
        self.signed += 1
        return data + b"%d" % self.signed


@pytest.fixture
async def stores(anyio_backend: str, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Stores]:
    async with opened_stores(redis_server, tmp_path / "stores") as stores:
        yield stores


async def test_the_same_pixels_are_signed_once(stores: Stores) -> None:
    signer = Numbered()
    images = SignedImages(signer, stores.signed_names, stores.blobs)
    first = await images.publish(drawn("png"), REQUEST, once)
    again = await SignedImages(signer, stores.signed_names, stores.blobs).publish(drawn("png"), REQUEST, once)
    assert first is not None
    assert again is not None
    assert (first.name, first.data) == (again.name, again.data)
    assert signer.signed == 1
    assert first.name is not None
    assert await stores.blobs.get(first.name) == first.data


async def test_another_statement_on_the_same_pixels_is_another_file(stores: Stores) -> None:
    """A signature may hold the prompt: nobody gets what somebody else has asked."""
    images = SignedImages(Numbered(), stores.signed_names, stores.blobs)
    other = REQUEST.model_copy(update={"prompt": "a RED apple"})
    first, second = [await images.publish(drawn("png"), each, once) for each in (REQUEST, other)]
    assert first is not None
    assert second is not None
    assert first.name != second.name


async def test_a_held_image_is_signed_under_a_private_name_and_later_seen_under_its_own(
    stores: Stores,
) -> None:
    images = SignedImages(Numbered(), stores.signed_names, stores.blobs)
    held = await images.publish(drawn("png"), REQUEST, once, is_held=True)
    shown = await images.publish(drawn("png"), REQUEST, once)
    assert held is not None
    assert held.name is not None
    assert held.name.startswith(HELD)
    assert shown is not None
    assert (shown.name, shown.data) == (held.name.removeprefix(HELD), held.data)


async def test_those_who_sign_at_once_publish_one_file(stores: Stores) -> None:
    images = [SignedImages(Numbered(), stores.signed_names, stores.blobs) for _ in range(4)]
    for index, each in enumerate(images):
        each._signer.signed = 10 * index  # type: ignore[attr-defined]
    files = await asyncio.gather(*(each.publish(drawn("png"), REQUEST, once) for each in images))
    assert len({file.name for file in files if file is not None}) == 1


async def test_a_file_that_is_gone_is_signed_again(stores: Stores, tmp_path: Path) -> None:
    signer = Numbered()
    images = SignedImages(signer, stores.signed_names, stores.blobs)
    first = await images.publish(drawn("png"), REQUEST, once)
    assert first is not None
    assert first.name is not None
    (path,) = [each for each in (tmp_path / "stores").rglob("*") if each.name.startswith(first.name[:16])]
    path.unlink()
    second = await images.publish(drawn("png"), REQUEST, once)
    assert second is not None
    assert second.name not in (None, first.name)
    third = await images.publish(drawn("png"), REQUEST, once)
    assert third is not None
    assert (third.name, signer.signed) == (second.name, 2)


async def test_a_key_service_that_is_away_is_told_as_such(stores: Stores) -> None:
    signer = Numbered()
    signer.away = True
    images = SignedImages(signer, stores.signed_names, stores.blobs)
    with pytest.raises(SigningUnavailable):
        await images.publish(drawn("png"), REQUEST, once)


@pytest.mark.slow
@pytest.mark.parametrize("room", [{"sign": True}], indirect=True)
async def test_a_job_that_is_drawn_twice_has_the_same_signed_image(room: Room) -> None:
    first, second = await room.submit("a", cache="off"), await room.submit("a", cache="off")
    await room.run(first)
    await room.run(second)
    jobs = [await room.job(message) for message in (first, second)]
    names = [job.result.images[0].name for job in jobs if job.result is not None]
    assert len(names) == 2
    assert names[0] == names[1]
    data = await room.stores.blobs.get(names[0])
    found = read(data, "image/png")
    assert (found.validity, found.model) == ("valid", "fake")
    assert jobs[0].result is not None
    assert jobs[0].result.images[0].size_bytes == len(data)


@pytest.mark.slow
@pytest.mark.parametrize("room", [{"sign": True}], indirect=True)
async def test_a_job_whose_images_cannot_be_signed_in_time_says_so(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> bytes:
        raise SigningFailed("the key service is away")

    monkeypatch.setattr("moderation.provenance.signing.Signer.sign", away)
    message = await room.submit("a", ttl_s=5.0)
    await room.run(message)
    assert (await room.job(message)).status is JobStatus.FAILED
    assert await room.failure(message) == "signing_unavailable"


@pytest.mark.parametrize("lacking", ["c2pa_certificates", "c2pa_key"])
async def test_half_a_setting_is_refused(lacking: str, stores: Stores, tmp_path: Path) -> None:
    issued = Authority(tmp_path / "authority").issue()
    given = {"c2pa_certificates": issued.certificates, "c2pa_key": issued.key}
    settings = WorkerSettings.model_validate({name: path for name, path in given.items() if name != lacking})
    with pytest.raises(SettingsError, match="DARKROOM_C2PA_"):
        open_signed_images(settings, stores)
    assert open_signed_images(WorkerSettings(), stores) is None


@pytest.mark.slow
def test_a_worker_that_cannot_sign_does_not_start(redis_server: RedisServer, tmp_path: Path) -> None:
    settings = {
        "DARKROOM_ENGINE": "fake",
        "DARKROOM_MODEL": "fake",
        "DARKROOM_REDIS_URL": redis_server.url,
        "DARKROOM_BLOB_DIR": str(tmp_path),
        "DARKROOM_C2PA_CERTIFICATES": str(tmp_path / "none.pem"),
        "DARKROOM_C2PA_KEY": str(tmp_path / "none.key"),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "worker"],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == exit_codes.UNUSABLE
    assert "DARKROOM_C2PA_CERTIFICATES" in ended.stderr.splitlines()[-1]
    assert "cannot be read" in ended.stderr.splitlines()[-1]

"""Imported images: what a client may send, and the steps from its file to a record that the search index is owed.

An image is known by two hashes. The SHA-256 of the file that was sent says whether it was imported
before. The stored file is written anew by a process that decodes it, and its own hash is its name. So
nothing that a stranger wrote is served, or read by the search process.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from api import init_image
from api.keyring import Principal
from api.normalise import invalid
from api.pictures.cover import Size
from api.pictures.decoders import Decoders, StoredPicture
from api.quotas import Quotas, nothing_left
from api.store_quota import Room
from backends.blobs import blob_name, is_public_name
from contracts.errors import ImageNotFound, InvalidRequest, SearchOff
from contracts.pictures import MAX_CAPTION_CHARS, MAX_ORIGIN_CHARS, PictureRecord
from contracts.ports.clock import Clock
from contracts.settings import ApiSettings
from contracts.tenancy import Charge
from scheduler.bounds import text_faults
from store.stores import Stores
from telemetry import metrics

MAX_HASHES: Final = 100
"""The most hashes of one question."""
ONE: Final = Charge("", 1, computed=False)
"""What an imported image costs its key."""

EXPECTED: Final = {
    "image": "a string",
    "caption": f"a string of at most {MAX_CAPTION_CHARS} characters",
    "origin": f"a string of at most {MAX_ORIGIN_CHARS} characters",
    "sha256": f"a list of 1 to {MAX_HASHES} hashes, each of 64 hexadecimal digits",
}
"""What each field must be, in the words of an error message."""


class ImportRequest(BaseModel):
    """An image from elsewhere."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    image: Annotated[str, Field(description="A PNG, JPEG or WebP in base64, or a data URL.")]
    caption: Annotated[
        str, Field(max_length=MAX_CAPTION_CHARS, description="What it shows. Searches look for its words.")
    ] = ""
    origin: Annotated[
        str, Field(max_length=MAX_ORIGIN_CHARS, description="The address or path that it comes from.")
    ] = ""


class HashesRequest(BaseModel):
    """Hashes of files that may have been imported before."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    sha256: Annotated[
        list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]], Field(min_length=1, max_length=MAX_HASHES)
    ]


@dataclass(frozen=True, slots=True)
class Imported:
    """The name of an imported image. `added` is False if it was there before."""

    name: str
    added: bool


def stored_size(width: int, height: int, longest: int) -> Size:
    """The size at which an image is stored: its shape, with no side above `longest`. Pure."""
    scale = min(1.0, longest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


class Imports:
    """Takes images of tenants, and removes them. Every coroutine raises `RequestError` and `UnavailableError`."""

    def __init__(
        self,
        settings: ApiSettings,
        stores: Stores,
        quotas: Quotas,
        room: Room,
        decoders: Decoders,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._stores = stores
        self._quotas = quotas
        self._room = room
        self._decoders = decoders
        self._clock = clock

    async def add(self, caller: Principal, body: ImportRequest) -> Imported:
        """Import an image. A file that was imported before costs a request, and nothing more."""
        try:
            imported = await self._add(caller, body)
        except InvalidRequest:
            metrics.SEARCH_IMPORTS.labels("refused").inc()
            raise
        metrics.SEARCH_IMPORTS.labels("added" if imported.added else "known").inc()
        return imported

    async def known(self, tenant: str, hashes: Sequence[str]) -> Mapping[str, str]:
        """The names of images that the tenant has imported from files of these hashes, by hash. Images
        whose files are gone are left out."""
        self._require_search()
        names = await self._stores.imports.known(tenant, list(dict.fromkeys(hashes)))
        there = await asyncio.gather(*map(self._stores.blobs.exists, names.values()))
        return {
            digest: name for (digest, name), is_there in zip(names.items(), there, strict=True) if is_there
        }

    async def remove(self, tenant: str, name: str) -> None:
        """Delete the record of an imported image, and its file unless another tenant has imported it too.

        The index is owed the deletion in the same step.
        """
        if not is_public_name(name) or not await self._stores.imports.remove(tenant, name):
            raise ImageNotFound("You have imported no such image.")
        metrics.SEARCH_IMPORTS.labels("removed").inc()
        blobs, imports = self._stores.blobs, self._stores.imports
        if await imports.in_use(name):
            return
        try:
            data = await blobs.get(name)
        except ImageNotFound:
            return
        await blobs.delete(name, math.inf)
        if await imports.in_use(name):  # another tenant has imported it meanwhile
            await blobs.put(data, name.rpartition(".")[2])

    async def _add(self, caller: Principal, body: ImportRequest) -> Imported:
        self._require_search()
        settings, tenant = self._settings, caller.tenant
        faults = [
            *text_faults("caption", body.caption, MAX_CAPTION_CHARS),
            *text_faults("origin", body.origin, MAX_ORIGIN_CHARS),
        ]
        if faults:
            raise invalid(faults)
        source = init_image.read(
            body.image,
            max_bytes=settings.max_import_bytes,
            max_pixels=settings.max_import_pixels,
            field="image",
        )
        await self._quotas.charge_rate(caller)
        digest = hashlib.sha256(source.data).hexdigest()
        if name := (await self.known(tenant, [digest])).get(digest):
            return Imported(name, added=False)
        self._room.require(tenant)
        size = stored_size(*source.header.size, settings.max_import_side)
        picture = await self._decoders.stored(tenant, source, size)
        record = PictureRecord(
            scope=tenant,
            name=blob_name(picture.data, picture.extension),
            created_at=self._clock.now(),
            expires_at=self._clock.now() + settings.blob_retention_s,
            source="imported",
            prompt=body.caption,
            width=picture.width,
            height=picture.height,
            origin=body.origin,
        )
        async with self._quotas.charged(caller, ONE, charge_rate=False):
            with nothing_left(unless=False):
                added = await self._record(record, digest, picture)
        if added:
            self._room.imported(record)
        return Imported(record.name, added)

    async def _record(self, record: PictureRecord, digest: str, picture: StoredPicture) -> bool:
        """Store the file, and then the record. Returns False if both were there."""
        blobs = self._stores.blobs
        # The record of an image whose file was lost is made anew: the index has dropped it.
        anew = not await blobs.exists(record.name)
        await blobs.put(picture.data, picture.extension)
        added = await self._stores.imports.add(record, digest, anew=anew)
        if not await blobs.exists(record.name):  # another tenant has removed it meanwhile
            await blobs.put(picture.data, picture.extension)
        return added

    def _require_search(self) -> None:
        if not self._settings.search_url:
            raise SearchOff("This platform runs without a search. An operator sets DARKROOM_SEARCH_URL.")

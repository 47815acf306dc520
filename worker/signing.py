"""Publishes images with content credentials: each file is signed once, whoever draws it again.

Signing the same file twice gives two files, and a file's name is the hash of its bytes. A second
signature would therefore publish the same pixels under a second name: after a hit of the cache that
expired, or by a worker that has lost its lease. So the first name counts, and the store remembers it
by the hash of the unsigned file.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

from backends.blobs import HELD, blob_name, public_name
from contracts.errors import ImageNotFound, SettingsError, SigningUnavailable
from contracts.ports.blob_store import BlobStore
from contracts.ports.image_signer import ImageSigner, SigningFailed
from contracts.ports.publications import Publication
from contracts.ports.signed_names import SignedNames
from contracts.requests import GenerationRequest
from contracts.settings import WorkerSettings
from store.stores import Stores
from telemetry import metrics, tracing
from worker.encode import AT_A_TIME, Encoded

T = TypeVar("T")


class Retry(Protocol):
    """Retries a call as long as the job allows; None: it gave up."""

    def __call__(self, step: Callable[[], Awaitable[T]], /) -> Awaitable[T | None]:
        """The result of `step`; None: the job does not allow another try."""
        ...


class SignedImages:
    """Signs files and stores them. `names` remembers what was signed."""

    def __init__(self, signer: ImageSigner, names: SignedNames, blobs: BlobStore) -> None:
        self._signer = signer
        self._names = names
        self._blobs = blobs
        self._cores = asyncio.Semaphore(AT_A_TIME)

    async def publish(
        self,
        file: Encoded,
        request: GenerationRequest,
        retry: Retry,
        *,
        is_held: bool = False,
        before: Callable[[str], Awaitable[Publication]] | None = None,
    ) -> Encoded | None:
        """The signed file, stored under its name. None: `retry` gave up.

        A held image gets a private name, and is remembered under the one that it has once it is
        released. `before` is called with the file's public name before it is stored. Raises
        `BlobStoreUnavailable` if it cannot be signed or stored in time.
        """
        source = self._source(file, request)
        found = await retry(partial(self._published, file, source))
        if found is None:
            return None
        signed = found if isinstance(found, Encoded) else await retry(partial(self._sign, file, request))
        if signed is None:
            return None
        if before is not None:
            place = blob_name(signed.data, signed.format)
            if await retry(partial(before, place)) is None:
                return None
        # A file that is known is stored again, so its retention starts anew.
        name = await retry(partial(self._blobs.put, signed.data, signed.format, is_held=is_held))
        if name is None:
            return None
        if isinstance(found, Encoded):
            return replace(signed, name=name)
        public = public_name(name)
        counts = await retry(partial(self._names.put, source, public, found.instead_of))
        if counts is None:
            return None
        # Somebody else may have signed the same file meanwhile: then theirs is published.
        if counts == public:
            return replace(signed, name=name)
        return await self.publish(file, request, retry, is_held=is_held, before=before)

    def _source(self, file: Encoded, request: GenerationRequest) -> str:
        """The file and what is said of it: the same pixels may be asked for by other words."""
        said = hashlib.sha256(self._signer.says(request)).hexdigest()
        return f"{hashlib.sha256(file.data).hexdigest()}:{self._signer.fingerprint}:{said}"

    async def _published(self, file: Encoded, source: str) -> Encoded | _Unpublished:
        name = await self._names.get(source)
        if name is None:
            return _Unpublished()
        for place in (name, HELD + name):
            try:
                return replace(file, data=await self._blobs.get(place))
            except ImageNotFound:
                continue
        return _Unpublished(instead_of=name)

    async def _sign(self, file: Encoded, request: GenerationRequest) -> Encoded:
        async with self._cores:
            begun = time.perf_counter()
            try:
                with tracing.span("sign"):
                    data = await asyncio.to_thread(self._signer.sign, file.data, file.content_type, request)
            except SigningFailed as error:
                raise SigningUnavailable(str(error)) from error
            seconds = time.perf_counter() - begun
        metrics.SIGN_SECONDS.observe(seconds)
        return replace(file, data=data, encode_ms=file.encode_ms + seconds * 1000)


@dataclass(frozen=True, slots=True)
class _Unpublished:
    """The file is not published. `instead_of` is the name of one that was, and is gone."""

    instead_of: str | None = None


def open_signed_images(settings: WorkerSettings, stores: Stores) -> SignedImages | None:
    """What publishes signed images; None: the settings ask for none. Raises `SettingsError`."""
    if settings.c2pa_certificates is None:
        if settings.c2pa_key is not None or settings.c2pa_signer:
            raise SettingsError("DARKROOM_C2PA_CERTIFICATES: a key signs nothing without its certificate")
        return None
    if (settings.c2pa_key is None) == (not settings.c2pa_signer):
        raise SettingsError("DARKROOM_C2PA_KEY: give either a key or DARKROOM_C2PA_SIGNER")
    try:
        from moderation.provenance.signing import Signer  # c2pa is an extra
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"DARKROOM_C2PA_CERTIFICATES needs the extra c2pa: {error.name} is missing"
        ) from error
    try:
        signer = Signer(
            settings.c2pa_certificates,
            settings.c2pa_key,
            settings.c2pa_signer,
            with_prompt=settings.c2pa_prompt,
        )
    except SigningFailed as error:
        raise SettingsError(f"DARKROOM_C2PA_CERTIFICATES: {error}") from error
    return SignedImages(signer, stores.signed_names, stores.blobs)

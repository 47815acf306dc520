"""The images of a job: the one to start from, the generated ones, and what the record says of them.

Where a policy is in force, no file is stored before its verdict. A held image gets a private name, and a
blocked one is not stored at all.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from backends.blobs import blob_name, public_name
from contracts.engine import Pixels
from contracts.jobs import ImageRef, JobMessage, JobResult, Lease, Timings
from contracts.models import ModelSpec
from contracts.moderation import Verdict
from contracts.pictures import Embedding, PictureRecord
from contracts.ports.publications import Publication
from contracts.requests import GenerationRequest
from moderation.held import was_released
from store.stores import Stores
from telemetry import metrics, tracing
from worker.encode import Encoded, Encoder, Output, rgb
from worker.images import ImageResult
from worker.init_images import InitImages
from worker.outcomes import outcomes_of
from worker.retrier import Hold, Retrier
from worker.signing import SignedImages
from worker.verdicts import Verdicts, unjudged

WHENEVER: Final = float("inf")
"""A file is deleted whenever it was stored."""


@dataclass(frozen=True, slots=True)
class DoneImages:
    """The result of a job, and the file name that each of its images has, or will have once it is
    released."""

    result: JobResult
    names: tuple[str, ...]
    drawn: tuple[str, ...]
    """The names of the files before they were signed."""

    @property
    def blocked(self) -> bool:
        """Whether no image may ever be seen, as far as is known now."""
        return all(
            image.moderation is not None and image.moderation.state in ("blocked", "refused")
            for image in self.result.images
        )


@dataclass(frozen=True, slots=True)
class StartImage:
    """The image that a job starts from: its RGB bytes, and what the policy says of it (None: there is no policy)."""

    rgb: bytes
    verdict: Verdict | None = None


class Pictures:
    """Reads and stores images. Retries while their store is away, as `Hold` allows."""

    def __init__(
        self,
        stores: Stores,
        encoder: Encoder,
        retrier: Retrier,
        spec: ModelSpec,
        signed: SignedImages | None = None,
        verdicts: Verdicts | None = None,
        init_images: InitImages | None = None,
    ) -> None:
        """`signed` publishes the images with content credentials. The `encoder` stores nothing then.
        `verdicts` and `init_images` None: no policy is in force."""
        self._stores = stores
        self._encoder = encoder
        self._retrier = retrier
        self._spec = spec
        self._signed = signed
        self._verdicts = verdicts
        self._init_images = init_images

    async def start(self, message: JobMessage, hold: Hold) -> StartImage | None:
        """The image to start from, judged where a policy is in force.

        None where the request has no such image, the worker drains before a store answers, or the
        lease is void. Raises `ImageNotFound`, `BlobStoreUnavailable` and `OutOfBounds`.
        """
        request, retry = message.request, partial(self._retrier.retry_until_drained, hold=hold)
        if request.init_image is None:
            return None
        file = await retry(partial(self._stores.blobs.get, request.init_image))
        if file is None:
            return None
        pixels = await asyncio.to_thread(rgb, file, request.width, request.height)
        if self._init_images is None or not self._can_judge(request):
            return StartImage(pixels)  # in the second case all images are held
        judge = partial(self._init_images.of, message.tenant, file, pixels, request.width, request.height)
        with tracing.span("judge init image"):
            verdict = await retry(judge)
        return None if verdict is None else StartImage(pixels, verdict)

    async def result(
        self, message: JobMessage, lease: Lease, results: Sequence[ImageResult], hold: Hold
    ) -> DoneImages | None:
        """Encode, judge and store the images. Answers the job's result.

        None: the worker drains before the store is back, or the lease of `hold` is void. Raises
        `BlobStoreUnavailable` if the images cannot be stored in time.
        """
        spec = self._spec
        images = [result.image for result in results if isinstance(result.image, Pixels)]
        with tracing.span("encode"):
            encoded = await outcomes_of(
                [
                    self._encoder.encode(
                        image,
                        Output.of(message.request, index, spec.sampler, spec.schedule_type),
                        # Nothing is stored before its verdict.
                        _always if self._judges(message) else hold.void.is_set,
                    )
                    for index, image in enumerate(images)
                ]
            )
        files = []
        for file in encoded:
            if isinstance(file, BaseException):
                raise file
            files.append(file)
        verdicts = await self._judged(message, images, files, hold)
        if verdicts is None:
            return None
        stored, noted = list[Encoded](), list[Publication]()
        for file, verdict in zip(files, verdicts, strict=True):
            if file.name is None and hold.void.is_set():
                return None
            blocked = verdict is not None and verdict.state in ("blocked", "refused")
            done = (
                file
                if file.name or blocked
                else await self._publish(file, verdict, message.request, hold, noted)
            )
            if done is None or not await self._kept_for_review(done, verdict, hold):
                return None
            stored.append(done)
        drawn = tuple(blob_name(file.data, file.format) for file in files)
        again = await self._taken_back(verdicts, drawn, stored, noted, hold)
        if again is None:
            return None
        if again:
            return await self.result(message, lease, results, hold)
        warnings = [image.warnings for image in images] + [file.warnings for file in stored]
        result = JobResult(
            images=tuple(
                _ref(file.name or "", image, file, message.request, index, verdict, drawn[index])
                for index, (image, file, verdict) in enumerate(zip(images, stored, verdicts, strict=True))
            ),
            timings=Timings(
                queued_ms=round(max(0.0, lease.claimed_at - message.created_at) * 1000, 3),
                batch_ms=round(sum({result.batch_ms for result in results}), 3),
                encode_ms=round(sum(file.encode_ms for file in stored), 3),
                batch_size=max(result.batch_size for result in results),
            ),
            warnings=tuple(dict.fromkeys(itertools.chain(*warnings))),
        )
        return DoneImages(
            result,
            tuple(public_name(file.name or "") or blob_name(file.data, file.format) for file in stored),
            drawn,
        )

    def _judges(self, message: JobMessage) -> bool:
        """Whether images of the job have verdicts: also where only the API has a policy."""
        return self._verdicts is not None or message.request.held or bool(message.request.policy)

    def _can_judge(self, request: GenerationRequest) -> bool:
        """Whether this worker has the policy that the request names, if it names one."""
        return not request.policy or (self._verdicts is not None and self._verdicts.can_judge(request.policy))

    async def _judged(
        self, message: JobMessage, images: Sequence[Pixels], files: Sequence[Encoded], hold: Hold
    ) -> Sequence[Verdict | None] | None:
        """The verdict on each image; None for each where no policy is in force.

        None: the worker drains before the store is back.
        """
        request = message.request
        if not self._can_judge(request):
            verdict = unjudged(request, "" if self._verdicts is None else self._verdicts.policy)
            return [verdict] * len(files)
        if self._verdicts is None:
            return [request.moderation if request.held else None] * len(files)
        with tracing.span("judge"):
            return await self._retrier.retry_until_drained(
                partial(self._verdicts.of, message, images, files), hold
            )

    async def _taken_back(
        self,
        verdicts: Sequence[Verdict | None],
        drawn: Sequence[str],
        stored: Sequence[Encoded],
        noted: Sequence[Publication],
        hold: Hold,
    ) -> bool | None:
        """Whether people took a release back while its image was stored. Its file is deleted then.

        `noted` are the notes of released files; they are ended.

        None: the worker drains before the store is back.
        """
        if self._verdicts is None:
            return False
        retry = partial(self._retrier.retry_until_drained, hold=hold)
        back = await retry(partial(self._verdicts.taken_back, verdicts, drawn))
        if back is None:
            return None
        for name, file in zip(drawn, stored, strict=True):
            if name in back and file.name:
                await retry(partial(self._stores.blobs.delete, file.name, WHENEVER))
        await retry(partial(self._stores.publications.end, noted))
        return bool(back)

    async def _kept_for_review(self, file: Encoded, verdict: Verdict | None, hold: Hold) -> bool:
        """Store a released image under its private name too: if the release is undone, people look again.

        False: the worker drains before the store is back.
        """
        if verdict is None or not was_released(verdict):
            return True
        put = partial(self._stores.blobs.put, file.data, file.format, is_held=True)
        return await self._retrier.retry_until_drained(put, hold) is not None

    async def _publish(
        self,
        file: Encoded,
        verdict: Verdict | None,
        request: GenerationRequest,
        hold: Hold,
        noted: list[Publication],
    ) -> Encoded | None:
        """The stored file with its name; None as for `result`. A held image gets a private name.

        A file that people have released is first noted, and added to `noted`: the release may be undone, and this
        worker die, before the file is deleted again.
        """
        is_held = verdict is not None and not verdict.shown
        released = verdict is not None and was_released(verdict)
        decided_as = blob_name(file.data, file.format)
        retry = partial(self._retrier.retry_until_drained, hold=hold)

        async def note(name: str) -> Publication:
            publication = await self._stores.publications.begin(name, decided_as)
            noted.append(publication)
            return publication

        with tracing.span("store image"), metrics.STORE_SECONDS.time():
            if self._signed is not None:
                return await self._signed.publish(
                    file, request, retry, is_held=is_held, before=note if released else None
                )
            if released and await retry(partial(note, decided_as)) is None:
                return None
            name = await retry(partial(self._stores.blobs.put, file.data, file.format, is_held=is_held))
        return None if name is None else replace(file, name=name)


def picture_records(
    message: JobMessage,
    refs: Sequence[ImageRef],
    names: Sequence[str],
    images: Sequence[Pixels],
    spec: ModelSpec,
    scope: str,
    now: float,
    keep_s: float,
) -> tuple[PictureRecord, ...]:
    """The records of the images that have an embedding, for the search index. Pure.

    `refs`, `names` and `images` are those of the result, in order. `now` is Unix seconds. The store
    stamps the records itself, and keeps them for `keep_s` seconds.
    """
    request = message.request
    return tuple(
        PictureRecord(
            scope=scope,
            name=name,
            embedding=Embedding.of(spec.clip, image.embedding),
            created_at=now,
            expires_at=now + keep_s,
            prompt=request.prompt,
            model=request.model,
            lora="" if request.lora is None else request.lora.name,
            width=ref.width,
            height=ref.height,
            seed=ref.seed,
            job_id=message.job_id,
        )
        for ref, name, image in zip(refs, names, images, strict=True)
        if image.embedding is not None
    )


def _always() -> bool:
    return True


def _ref(
    name: str,
    pixels: Pixels,
    file: Encoded,
    request: GenerationRequest,
    index: int,
    verdict: Verdict | None,
    drawn: str,
) -> ImageRef:
    released = verdict is not None and was_released(verdict)
    return ImageRef(
        name=name,
        width=pixels.width,
        height=pixels.height,
        seed=request.image_seed(index),
        content_type=file.content_type,
        size_bytes=len(file.data),
        moderation=verdict,
        drawn=drawn if released and drawn != name else "",
    )

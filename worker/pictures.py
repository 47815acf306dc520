"""The images of a job: the one to start from, the generated ones, and what the record says of them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from contracts.engine import Pixels
from contracts.jobs import ImageRef, JobMessage, JobResult, Lease, Timings
from contracts.models import ModelSpec
from contracts.pictures import Embedding, PictureRecord
from contracts.requests import GenerationRequest
from store.stores import Stores
from telemetry import metrics, tracing
from worker.encode import Encoded, Encoder, Output, rgb
from worker.images import ImageResult
from worker.outcomes import outcomes_of
from worker.retrier import Hold, Retrier
from worker.signing import SignedImages


class Pictures:
    """Reads and stores images. Retries while their store is away, as `Hold` allows."""

    def __init__(
        self,
        stores: Stores,
        encoder: Encoder,
        retrier: Retrier,
        spec: ModelSpec,
        signed: SignedImages | None = None,
    ) -> None:
        """`signed` publishes the images with content credentials. The `encoder` stores nothing then."""
        self._stores = stores
        self._encoder = encoder
        self._retrier = retrier
        self._spec = spec
        self._signed = signed

    async def start(self, request: GenerationRequest, hold: Hold) -> bytes | None:
        """The RGB bytes of the image to start from.

        None where the request has no such image, the worker drains before the store answers, or the
        lease is void. Raises `ImageNotFound`, `BlobStoreUnavailable` and `OutOfBounds`.
        """
        if request.init_image is None:
            return None
        file = await self._retrier.retry_until_drained(
            partial(self._stores.blobs.get, request.init_image), hold
        )
        return None if file is None else await asyncio.to_thread(rgb, file, request.width, request.height)

    async def result(
        self, message: JobMessage, lease: Lease, results: Sequence[ImageResult], hold: Hold
    ) -> JobResult | None:
        """Encode and store the images. Answers the job's result.

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
                        hold.void.is_set,
                    )
                    for index, image in enumerate(images)
                ]
            )
        names, files = [], []
        for file in encoded:
            if isinstance(file, BaseException):
                raise file
            if file.name is None and hold.void.is_set():
                return None
            stored = file if file.name else await self._publish(file, message.request, hold)
            if stored is None or stored.name is None:
                return None
            names.append(stored.name)
            files.append(stored)
        warnings = [image.warnings for image in images] + [file.warnings for file in files]
        return JobResult(
            images=tuple(
                _ref(name, image, file, message.request, index)
                for index, (name, image, file) in enumerate(zip(names, images, files, strict=True))
            ),
            timings=Timings(
                queued_ms=round(max(0.0, lease.claimed_at - message.created_at) * 1000, 3),
                batch_ms=round(sum({result.batch_ms for result in results}), 3),
                encode_ms=round(sum(file.encode_ms for file in files), 3),
                batch_size=max(result.batch_size for result in results),
            ),
            warnings=tuple(dict.fromkeys(itertools.chain(*warnings))),
        )

    async def _publish(self, file: Encoded, request: GenerationRequest, hold: Hold) -> Encoded | None:
        retry = partial(self._retrier.retry_until_drained, hold=hold)
        with tracing.span("store image"), metrics.STORE_SECONDS.time():
            if self._signed is not None:
                return await self._signed.publish(file, request, retry)
            name = await retry(partial(self._stores.blobs.put, file.data, file.format))
        return None if name is None else replace(file, name=name)


def picture_records(
    message: JobMessage,
    result: JobResult,
    images: Sequence[Pixels],
    spec: ModelSpec,
    scope: str,
    now: float,
    keep_s: float,
) -> tuple[PictureRecord, ...]:
    """The records of the images that have an embedding, for the search index. Pure.

    `images` are those of `result`, in order. `now` is Unix seconds. The store stamps the records
    itself, and keeps them for `keep_s` seconds.
    """
    request = message.request
    return tuple(
        PictureRecord(
            scope=scope,
            name=ref.name,
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
        for ref, image in zip(result.images, images, strict=True)
        if image.embedding is not None
    )


def _ref(name: str, pixels: Pixels, file: Encoded, request: GenerationRequest, index: int) -> ImageRef:
    return ImageRef(
        name=name,
        width=pixels.width,
        height=pixels.height,
        seed=request.image_seed(index),
        content_type=file.content_type,
        size_bytes=len(file.data),
    )

"""The pictures of a job: the one that it starts from, those that were drawn as files in the store, and what its record says of them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from functools import partial

from contracts.engine import Pixels
from contracts.jobs import ImageRef, JobMessage, JobResult, Lease, Timings
from contracts.models import ModelSpec
from contracts.requests import GenerationRequest
from store.stores import Stores
from telemetry import metrics, tracing
from worker.encode import Encoded, Encoder, Output, rgb
from worker.images import ImageResult
from worker.outcomes import outcomes_of
from worker.retrier import Hold, Retrier


class Pictures:
    """Reads and writes them, and insists as `patience` says."""

    def __init__(self, stores: Stores, encoder: Encoder, retrier: Retrier, spec: ModelSpec) -> None:
        self._stores = stores
        self._encoder = encoder
        self._retrier = retrier
        self._spec = spec

    async def start(self, request: GenerationRequest, hold: Hold) -> bytes | None:
        """The pixels to start from; None where the request has none, or the worker drains before the store answers, or the
        lease is void. Raises `ImageNotFound`, `BlobStoreUnavailable`, `OutOfBounds`."""
        if request.init_image is None:
            return None
        file = await self._retrier.retry_until_drained(
            partial(self._stores.blobs.get, request.init_image), hold
        )
        return None if file is None else await asyncio.to_thread(rgb, file, request.width, request.height)

    async def result(
        self, message: JobMessage, lease: Lease, drawn: Sequence[ImageResult], hold: Hold
    ) -> JobResult | None:
        """Encodes and stores what was drawn. None: the worker drains before the store is back, or the lease of `hold` is void. Raises
        `BlobStoreUnavailable` where the pictures find no place in time."""
        spec = self._spec
        pixels = [each.image for each in drawn if isinstance(each.image, Pixels)]
        with tracing.span("encode"):
            encoded = await outcomes_of(
                [
                    self._encoder.encode(
                        each,
                        Output.of(message.request, index, spec.sampler, spec.schedule_type),
                        hold.void.is_set,
                    )
                    for index, each in enumerate(pixels)
                ]
            )
        names, files = [], []
        for file in encoded:
            if isinstance(file, BaseException):
                raise file
            if file.name is None and hold.void.is_set():
                return None
            name = file.name or await self._store(file, hold)
            if name is None:
                return None
            names.append(name)
            files.append(file)
        warned = [each.warnings for each in pixels] + [file.warnings for file in files]
        return JobResult(
            images=tuple(
                _ref(name, each, file, message.request, index)
                for index, (name, each, file) in enumerate(zip(names, pixels, files, strict=True))
            ),
            timings=Timings(
                queued_ms=round(max(0.0, lease.claimed_at - message.created_at) * 1000, 3),
                batch_ms=round(sum({each.batch_ms for each in drawn}), 3),
                encode_ms=round(sum(file.encode_ms for file in files), 3),
                batch_size=max(each.batch_size for each in drawn),
            ),
            warnings=tuple(dict.fromkeys(itertools.chain(*warned))),
        )

    async def _store(self, file: Encoded, hold: Hold) -> str | None:
        with tracing.span("store image"), metrics.STORE_SECONDS.time():
            return await self._retrier.retry_until_drained(
                partial(self._stores.blobs.put, file.data, file.format), hold
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

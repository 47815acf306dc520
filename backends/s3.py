"""Images in an S3 bucket. The AWS SDK is synchronous, so its calls run on separate threads. Needs
the extra `s3`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from backends.blobs import (
    HELD,
    PRIVATE_FOLDERS,
    StoredBlob,
    blob_name,
    blob_store_error,
    blobs_to_prune,
    is_blob_name,
    is_public_name,
)
from contracts.blobs import Deletion
from contracts.errors import ImageNotFound, SettingsError
from contracts.ports.clock import Clock

T = TypeVar("T")

THREADS: Final = 16
CONNECT_S: Final = 2.0
READ_S: Final = 10.0
DELETE_BATCH: Final = 1000
"""Keys that one request may delete in the S3 API."""
CONTENT_TYPES: Final = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}
PUBLIC: Final = "public, max-age=31536000, immutable"
PRIVATE: Final = "private, no-store"
"""The cache rule of inputs and held images, in case the bucket is also served by other means."""
_ABSENT: Final = ("404", "NoSuchKey", "NotFound")
_NO_ROOM: Final = ("507", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull")
"""Codes of servers that can be full; AWS itself cannot."""


class S3BlobStore:
    """The `BlobStore` in the bucket, under `prefix`. S3 stores an object whole or not at all."""

    def __init__(self, bucket: str, prefix: str, endpoint: str | None, clock: Clock) -> None:
        """Sends nothing before the first use. Raises `SettingsError` where the SDK is not
        installed."""
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError:
            raise SettingsError(
                "DARKROOM_BLOB_S3_BUCKET needs the AWS SDK: pip install 'darkroom[s3]'"
            ) from None
        self._faults: tuple[type[Exception], ...] = (BotoCoreError, ClientError, OSError)
        self._bucket = bucket
        self._prefix = prefix
        self._clock = clock
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="s3")
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint,
            config=Config(
                connect_timeout=CONNECT_S,
                read_timeout=READ_S,
                retries={"mode": "standard", "total_max_attempts": 3},
                max_pool_connections=THREADS,
            ),
        )

    async def put(self, data: bytes, extension: str, *, is_input: bool = False, is_held: bool = False) -> str:
        """Store `data`. Answers its name. Raises `BlobStoreUnavailable`, `BlobStoreFull`."""
        name = blob_name(data, extension, is_input=is_input, is_held=is_held)
        await self._in_thread(
            lambda: self._client.put_object(
                Bucket=self._bucket,
                Key=self._prefix + name,
                Body=data,
                ContentType=CONTENT_TYPES[extension],
                CacheControl=PUBLIC if is_public_name(name) else PRIVATE,
            )
        )
        return name

    async def get(self, name: str) -> bytes:
        """The bytes of the image. Raises `ImageNotFound`, `BlobStoreUnavailable`."""
        if not is_blob_name(name):
            raise ImageNotFound("There is no such image.")
        data = await self._in_thread(lambda: self._read(name))
        if data is None:
            raise ImageNotFound("There is no such image.")
        return data

    async def exists(self, name: str) -> bool:
        """Whether the image is there. Raises `BlobStoreUnavailable`."""
        return is_blob_name(name) and await self._in_thread(lambda: self._head(name))

    async def space(self) -> tuple[int, int] | None:
        """None: the space of a bucket is unknown."""
        return None

    async def delete(self, name: str, put_before: float) -> Deletion:
        """Delete the image, unless it was put at or after `put_before` (Unix seconds). A bucket
        that keeps versions keeps the deleted one for as long as its rules say. Raises
        `BlobStoreUnavailable`."""
        if not is_blob_name(name):
            return Deletion.ABSENT
        return await self._in_thread(lambda: self._delete(name, put_before))

    async def page(self, after: str, limit: int) -> Sequence[tuple[str, float]]:
        """At most `limit` public names in order, those behind `after`, each with the time of its last put (Unix
        seconds). Raises `BlobStoreUnavailable`."""
        return await self._in_thread(lambda: self._page(after, limit))

    async def prune(self, older_than_s: float, max_bytes: int | None) -> int:
        """Delete images older than `older_than_s`, then the oldest until at most `max_bytes` are
        left. Answers how many were deleted. Raises `BlobStoreUnavailable`."""
        return await self._in_thread(lambda: self._prune(self._clock.now() - older_than_s, max_bytes))

    async def close(self) -> None:
        """End the threads and the connections."""
        await asyncio.to_thread(self._pool.shutdown)
        self._client.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except self._faults as error:
            code = _code(error)
            words = f"The bucket of images failed: {code or type(error).__name__}."
            raise blob_store_error(words, full=code in _NO_ROOM) from error

    def _read(self, name: str) -> bytes | None:
        try:
            body: bytes = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"].read()
        except self._faults as error:
            if _code(error) in _ABSENT:
                return None
            raise
        return body

    def _head(self, name: str) -> bool:
        try:
            self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)
        except self._faults as error:
            if _code(error) in _ABSENT:
                return False
            raise
        return True

    def _delete(self, name: str, put_before: float) -> Deletion:
        try:
            about = self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)
        except self._faults as error:
            if _code(error) in _ABSENT:
                return Deletion.ABSENT
            raise
        if about["LastModified"].timestamp() >= put_before:
            return Deletion.YOUNG
        self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)
        return Deletion.DELETED

    def _page(self, after: str, limit: int) -> list[tuple[str, float]]:
        found: list[tuple[str, float]] = []
        # The names are in order, and those in the folders of private images come after all hexadecimal ones.
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix, StartAfter=self._prefix + after
        )
        for page in pages:
            for entry in page.get("Contents", ()):
                name = entry["Key"].removeprefix(self._prefix)
                if name.startswith(PRIVATE_FOLDERS):
                    return found
                if is_public_name(name):
                    found.append((name, entry["LastModified"].timestamp()))
                if len(found) == limit:
                    return found
        return found

    def _prune(self, before: float, max_bytes: int | None) -> int:
        surplus = [blob.where for blob in blobs_to_prune(sorted(self._all()), before, max_bytes)]
        for begin in range(0, len(surplus), DELETE_BATCH):
            keys = [{"Key": key} for key in surplus[begin : begin + DELETE_BATCH]]
            self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": keys, "Quiet": True})
        return len(surplus)

    def _all(self) -> Iterator[StoredBlob[str]]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix
        )
        for page in pages:
            for entry in page.get("Contents", ()):
                name = entry["Key"].removeprefix(self._prefix)
                if is_blob_name(name):
                    put_at = entry["LastModified"].timestamp()
                    yield StoredBlob(put_at, entry["Size"], entry["Key"], name.startswith(HELD))


def _code(error: Exception) -> str:
    """The S3 error code in an error's response; empty if there was no response."""
    response = getattr(error, "response", None) or {}
    code: str = response.get("Error", {}).get("Code", "")
    return code

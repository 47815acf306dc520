"""The pictures of an S3 bucket, `s3://bucket/prefix`, with captions from the objects beside them.

Credentials, region and endpoint come from the AWS SDK's own settings (`AWS_ENDPOINT_URL` names another
server than Amazon's).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from cli.crawl.captions import MAX_SIDECAR_BYTES, SIDECARS, caption_in, sidecars_of
from cli.crawl.items import SUFFIXES, Item, Listing, Loaded, Reason, Skipped, SourceFailed

T = TypeVar("T")

SCHEME: Final = "s3://"
THREADS: Final = 8
CONNECT_S: Final = 5.0
READ_S: Final = 30.0
_DENIED: Final = ("403", "AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch")


class BucketSource:
    """The `Source` of the objects of a bucket whose keys begin with a prefix. Raises `SourceFailed` where the
    SDK is not installed, or the address names no bucket."""

    local = False

    def __init__(self, address: str, max_bytes: int) -> None:
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError:
            raise SourceFailed("s3:// needs the AWS SDK: pip install 'darkroom[s3]'") from None
        self._faults: tuple[type[Exception], ...] = (BotoCoreError, ClientError, OSError)
        self._bucket, _, self._prefix = address.removeprefix(SCHEME).partition("/")
        if not self._bucket:
            raise SourceFailed(f"{address} names no bucket: s3://bucket/prefix.")
        self._max_bytes = max_bytes
        self._sizes: dict[str, int] = {}
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="s3")
        try:
            self._client: Any = boto3.client(
                "s3",
                config=Config(
                    connect_timeout=CONNECT_S,
                    read_timeout=READ_S,
                    retries={"mode": "standard", "total_max_attempts": 4},
                    max_pool_connections=THREADS,
                ),
            )
        except (*self._faults, ValueError) as error:
            raise SourceFailed(f"{address}: {error}") from None

    async def list(self) -> Listing:
        """Every object whose key ends as a picture's name does. Raises `SourceFailed`."""
        return await self._in_thread(self._list)

    async def load(self, item: Item) -> Loaded:
        """The object, and its caption. Raises `Skipped`."""
        # An object that was replaced has another tag, and is another picture.
        return await self._in_thread(lambda: self._load(item.key.rpartition(" ")[0]))

    async def close(self) -> None:
        """End the threads and the connections."""
        await asyncio.to_thread(self._pool.shutdown)
        self._client.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _list(self) -> Listing:
        items = list[Item]()
        pages = self._client.get_paginator("list_objects_v2")
        try:
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                for entry in page.get("Contents", ()):
                    key, tag = str(entry["Key"]), str(entry.get("ETag", "")).strip('"')
                    if key.lower().endswith((*SUFFIXES, *SIDECARS)):
                        self._sizes[key] = entry["Size"]
                    if key.lower().endswith(SUFFIXES):
                        items.append(Item(f"{key} {tag}", f"{SCHEME}{self._bucket}/{key}"))
        except self._faults as error:
            raise SourceFailed(f"{SCHEME}{self._bucket}: {_code(error) or error}.") from None
        return Listing(items)

    def _load(self, key: str) -> Loaded:
        if self._sizes[key] > self._max_bytes:
            raise Skipped(Reason.BYTES)
        data = self._read(key, self._max_bytes)
        for name in sidecars_of(key):
            if name not in self._sizes:
                continue
            try:
                return Loaded(data, caption_in(name, self._read(name, MAX_SIDECAR_BYTES)))
            except (Skipped, ValueError, RecursionError):
                return Loaded(data, note=Reason.CAPTION_UNREADABLE)
        return Loaded(data)

    def _read(self, key: str, limit: int) -> bytes:
        try:
            body: bytes = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read(limit + 1)
        except self._faults as error:
            code = _code(error)
            raise Skipped(Reason.DENIED if code in _DENIED else Reason.UNREADABLE, code) from None
        return body


def _code(error: Exception) -> str:
    """The S3 error code in an error's response; empty if there was no response."""
    response = getattr(error, "response", None) or {}
    code: str = response.get("Error", {}).get("Code", "")
    return code

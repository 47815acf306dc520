"""Pictures by the hash of their bytes, in a directory that API and workers share."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Final

from contracts.errors import ImageNotFound, StoreUnavailable

_NAME: Final = re.compile(r"[0-9a-f]{64}\.(?:png|webp|jpeg)\Z")


def blob_name(data: bytes, extension: str) -> str:
    """The name that `data` has in every blob store."""
    return f"{hashlib.sha256(data).hexdigest()}.{extension}"


def is_blob_name(name: str) -> bool:
    return _NAME.match(name) is not None


class DirectoryBlobStore:
    """The `BlobStore` in a directory, spread over 256 folders by the first two digits."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, data: bytes, extension: str) -> str:
        return await asyncio.to_thread(self._put, data, extension)

    async def get(self, name: str) -> bytes:
        if not is_blob_name(name):
            raise ImageNotFound("There is no such picture.")
        try:
            return await asyncio.to_thread(self._path(name).read_bytes)
        except FileNotFoundError:
            raise ImageNotFound("There is no such picture.") from None
        except OSError as error:
            raise _unavailable(error) from error

    async def exists(self, name: str) -> bool:
        # No thread: a look at the directory costs less than the hand-over.
        return is_blob_name(name) and self._path(name).exists()

    def _put(self, data: bytes, extension: str) -> str:
        name = blob_name(data, extension)
        path = self._path(name)
        try:
            if path.exists():
                return name
            path.parent.mkdir(parents=True, exist_ok=True)
            # Whole or not at all: written beside its place, on disk, then renamed.
            handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(partial, 0o644)
                os.replace(partial, path)
            except BaseException:
                Path(partial).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise _unavailable(error) from error
        return name

    def _path(self, name: str) -> Path:
        return self._root / name[:2] / name


def _unavailable(error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"The blob directory failed: {os.strerror(error.errno or 0)}.")

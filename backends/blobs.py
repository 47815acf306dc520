"""Pictures by the hash of their bytes, in a directory that API and workers share.

Drawn pictures are public: their names are capabilities. Pictures to start from are *inputs*: they have a folder of their own, and
names that no public route serves (docs/adr/0010-pictures-are-capabilities.md).
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from contracts.blobs import Deletion
from contracts.clock import Clock
from contracts.errors import BlobStoreFull, BlobStoreUnavailable, ImageNotFound
from telemetry import metrics

Where = TypeVar("Where")

PRUNE_LIMIT: Final = 10_000
"""Pictures deleted at a time."""
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
INPUTS: Final = "inputs/"
"""How the name of an input begins, and the folder of all of them."""
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_NAME: Final = re.compile(rf"(?:{INPUTS})?[0-9a-f]{{64}}\.(?:png|webp|jpeg)\Z")


def blob_name(data: bytes, extension: str, *, is_input: bool = False) -> str:
    """The name that `data` has in every blob store."""
    return f"{INPUTS if is_input else ''}{hashlib.sha256(data).hexdigest()}.{extension}"


def is_blob_name(name: str) -> bool:
    return _NAME.match(name) is not None


def is_public_name(name: str) -> bool:
    """Whether `name` is that of a drawn picture, which whoever knows it may have."""
    return is_blob_name(name) and not name.startswith(INPUTS)


def doomed(
    found: Sequence[tuple[float, int, Where]], before: float, max_bytes: int | None
) -> Sequence[tuple[float, int, Where]]:
    """Which of `found` (time, bytes, where; oldest first) must go: those from before `before` (Unix seconds), then the oldest
    until at most `max_bytes` are left; at most `PRUNE_LIMIT`."""
    left = sum(size for _, size, _ in found)
    going: list[tuple[float, int, Where]] = []
    for time, size, where in found:
        too_much = max_bytes is not None and left > max_bytes
        if len(going) == PRUNE_LIMIT or not (time < before or too_much):
            break
        going.append((time, size, where))
        left -= size
    return going


class DirectoryBlobStore:
    """The `BlobStore` in a directory, spread over 256 folders by the first two digits; inputs likewise, in a folder of it."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root
        self._folder = str(root)
        self._clock = clock

    async def put(self, data: bytes, extension: str, *, is_input: bool = False) -> str:
        return await asyncio.to_thread(self._put, data, extension, is_input=is_input)

    def write(self, data: bytes, extension: str) -> str:
        """`put` from a thread that may wait for the disk, such as the one that has just encoded the picture."""
        return self._put(data, extension, is_input=False)

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
        return is_blob_name(name) and self._is_there(name)

    async def delete(self, name: str, put_before: float) -> Deletion:
        return await asyncio.to_thread(self._delete, name, put_before)

    async def prune(self, older_than_s: float, max_bytes: int | None) -> int:
        return await asyncio.to_thread(self._prune, self._clock.now() - older_than_s, max_bytes)

    async def space(self) -> tuple[int, int] | None:
        try:
            usage = await asyncio.to_thread(shutil.disk_usage, self._root)
        except OSError:
            return None
        return usage.free, usage.total

    def paths(self) -> Iterator[tuple[str, Path]]:
        """The name of every picture and where it lies, for a backup. Raises `OSError`."""
        for _, _, path in self._all():
            yield (INPUTS if path.parent.parent != self._root else "") + path.name, path

    def age(self, name: str, written_at: float) -> None:
        """Let a picture be as old as it was before its restore, so that it is pruned when it would have been. Unix seconds."""
        os.utime(self._path(name), (written_at, written_at))

    def _is_there(self, name: str) -> bool:
        # No Path: that would cost more than the look.
        return os.path.exists(f"{self._folder}/{_place(name)}")

    def _delete(self, name: str, put_before: float) -> Deletion:
        if not is_blob_name(name):
            return Deletion.ABSENT
        path = self._path(name)
        try:
            if path.stat().st_mtime >= put_before:
                return Deletion.YOUNG
            path.unlink()
        except FileNotFoundError:
            return Deletion.ABSENT
        except OSError as error:
            raise _unavailable(error) from error
        return Deletion.DELETED

    def _prune(self, before: float, max_bytes: int | None) -> int:
        try:
            found = sorted(self._all())
            surplus = doomed(found, before, max_bytes)
            for _, _, path in surplus:
                path.unlink(missing_ok=True)
            for partial in self._files(".*.part"):
                with suppress(FileNotFoundError):  # a picture that has just become whole
                    if partial.stat().st_mtime < before:
                        partial.unlink()
        except OSError as error:
            raise _unavailable(error) from error
        return len(surplus)

    def _all(self) -> Iterator[tuple[float, int, Path]]:
        """Time, size and path of every picture."""
        for path in self._files("*"):
            with suppress(FileNotFoundError):
                if is_blob_name(path.name):
                    about = path.stat()
                    yield about.st_mtime, about.st_size, path

    def _files(self, pattern: str) -> Iterator[Path]:
        """Those of all folders."""
        for folder in (self._root, self._root / INPUTS):
            yield from folder.glob(f"??/{pattern}")

    def _put(self, data: bytes, extension: str, *, is_input: bool) -> str:
        name = blob_name(data, extension, is_input=is_input)
        # No Path, as in `_is_there`.
        place = f"{self._folder}/{_place(name)}"
        try:
            try:
                os.utime(place)  # its age begins anew: it has just been asked for
            except FileNotFoundError:
                _write_whole(place, data)
        except OSError as error:
            raise _unavailable(error) from error
        return name

    def _path(self, name: str) -> Path:
        return self._root / _place(name)


def _write_whole(place: str, data: bytes) -> None:
    """Whole or not at all: written beside its place, on disk, then renamed. Raises `OSError`."""
    folder = os.path.dirname(place)
    partial = f"{folder}/.{os.urandom(8).hex()}.part"
    try:
        handle = os.open(partial, _NEW_FILE, 0o600)
    except FileNotFoundError:
        os.makedirs(folder, exist_ok=True)
        handle = os.open(partial, _NEW_FILE, 0o600)
    try:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(handle, left) :]
            os.fchmod(handle, 0o644)
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(partial, place)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def _place(name: str) -> str:
    """Where a picture lies under the root."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file[:2]}/{file}" if folder else f"{file[:2]}/{file}"


def blob_store_error(message: str, *, full: bool) -> BlobStoreUnavailable:
    """The error for a failed call of a blob store, counted. `full`: it has no room."""
    metrics.BLOB_STORE_ERRORS.labels("full" if full else "unavailable").inc()
    return (BlobStoreFull if full else BlobStoreUnavailable)(message)


def _unavailable(error: OSError) -> BlobStoreUnavailable:
    words = os.strerror(error.errno or 0)
    return blob_store_error(f"The directory of pictures failed: {words}.", full=error.errno in NO_ROOM)

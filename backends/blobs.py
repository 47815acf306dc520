"""Images by the hash of their bytes, in a directory that the API and the workers share.

Generated images are public: knowing a name is the right to read it. Init images are *inputs*, and
images that a policy keeps from their owner are *held*. Each kind has a separate folder, and no public
route serves their names (docs/adr/0010-pictures-are-capabilities.md,
docs/adr/0063-a-held-image-has-no-public-name.md).
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
from typing import Final, Generic, NamedTuple, TypeVar

from contracts.blobs import Deletion
from contracts.errors import BlobStoreFull, BlobStoreUnavailable, ImageNotFound
from contracts.ports.clock import Clock
from telemetry import metrics

Where = TypeVar("Where")

PRUNE_LIMIT: Final = 10_000
"""Images that one `prune` deletes at most."""
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
INPUTS: Final = "inputs/"
"""The prefix of the names of inputs, and the folder that holds them."""
HELD: Final = "held/"
"""The prefix of the names of held images, and the folder that holds them."""
PRIVATE_FOLDERS: Final = (INPUTS, HELD)
HELD_LONGER_S: Final = 86_400.0
"""A held file is kept for so many seconds more than others. Its review ends before, and deletes it."""
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_NAME: Final = re.compile(rf"(?:{'|'.join(PRIVATE_FOLDERS)})?[0-9a-f]{{64}}\.(?:png|webp|jpeg)\Z")


def blob_name(data: bytes, extension: str, *, is_input: bool = False, is_held: bool = False) -> str:
    """The name of `data` in every blob store: its SHA-256 in hex and the extension, after the folder of
    its kind."""
    folder = INPUTS if is_input else HELD if is_held else ""
    return f"{folder}{hashlib.sha256(data).hexdigest()}.{extension}"


def public_name(held: str) -> str:
    """The name that a held image gets when it is released."""
    return held.removeprefix(HELD)


def is_blob_name(name: str) -> bool:
    """Whether `name` is well-formed."""
    return _NAME.match(name) is not None


def is_public_name(name: str) -> bool:
    """Whether `name` is that of a generated image. Anybody who knows it may read the image."""
    return is_blob_name(name) and not name.startswith(PRIVATE_FOLDERS)


class StoredBlob(NamedTuple, Generic[Where]):
    """A blob as a store lists it: when it was put (Unix seconds), its size in bytes, and where it is."""

    put_at: float
    size: int
    where: Where
    is_held: bool


def blobs_to_prune(
    blobs: Sequence[StoredBlob[Where]], before: float, max_bytes: int | None
) -> Sequence[StoredBlob[Where]]:
    """The blobs that must go: those put before `before` (Unix seconds), then the oldest until at
    most `max_bytes` are left.

    Held images count, but never go to make room, and go by age only `HELD_LONGER_S` later: somebody may
    still decide on them. `blobs` are oldest first. Answers at most `PRUNE_LIMIT` of them. Pure.
    """
    bytes_left = sum(blob.size for blob in blobs)
    surplus: list[StoredBlob[Where]] = []
    for blob in blobs:
        too_much = max_bytes is not None and bytes_left > max_bytes
        if len(surplus) == PRUNE_LIMIT or not (blob.put_at < before or too_much):
            break
        if blob.is_held and blob.put_at >= before - HELD_LONGER_S:
            continue
        surplus.append(blob)
        bytes_left -= blob.size
    return surplus


class DirectoryBlobStore:
    """The `BlobStore` in a directory, spread over 256 folders by the first two digits of the names.
    Inputs and held images lie likewise, each in one folder of it."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root
        self._folder = str(root)
        self._clock = clock

    async def put(self, data: bytes, extension: str, *, is_input: bool = False, is_held: bool = False) -> str:
        """Store `data`. Answers its name. Raises `BlobStoreUnavailable`, `BlobStoreFull`."""
        name = blob_name(data, extension, is_input=is_input, is_held=is_held)
        return await asyncio.to_thread(self._put, name, data)

    def write(self, data: bytes, extension: str) -> str:
        """As `put`, for a thread that may wait for the disk, such as the one that encodes
        images."""
        return self._put(blob_name(data, extension), data)

    async def get(self, name: str) -> bytes:
        """The bytes of the image. Raises `ImageNotFound`, `BlobStoreUnavailable`."""
        if not is_blob_name(name):
            raise ImageNotFound("There is no such image.")
        try:
            return await asyncio.to_thread(self._path(name).read_bytes)
        except FileNotFoundError:
            raise ImageNotFound("There is no such image.") from None
        except OSError as error:
            raise _unavailable(error) from error

    async def exists(self, name: str) -> bool:
        """Whether the image is there."""
        # Without a thread: the look at the directory costs less than the change of threads.
        return is_blob_name(name) and self._is_there(name)

    async def delete(self, name: str, put_before: float) -> Deletion:
        """Delete the image, unless it was put at or after `put_before` (Unix seconds). Raises
        `BlobStoreUnavailable`."""
        return await asyncio.to_thread(self._delete, name, put_before)

    async def page(self, after: str, limit: int) -> Sequence[tuple[str, float]]:
        """At most `limit` public names in order, those behind `after`, each with the time of its last put (Unix
        seconds). Raises `BlobStoreUnavailable`."""
        return await asyncio.to_thread(self._page, after, limit)

    async def prune(self, older_than_s: float, max_bytes: int | None) -> int:
        """Delete images older than `older_than_s`, then the oldest until at most `max_bytes` are
        left. Answers how many were deleted. Raises `BlobStoreUnavailable`."""
        return await asyncio.to_thread(self._prune, self._clock.now() - older_than_s, max_bytes)

    async def space(self) -> tuple[int, int] | None:
        """Free bytes, and all bytes that this process may ever use; None: unknown.

        A file system may keep blocks back for root. They are neither free nor used, and so are in neither number.
        """
        try:
            usage = await asyncio.to_thread(shutil.disk_usage, self._root)
        except OSError:
            return None
        return usage.free, usage.used + usage.free

    def paths(self) -> Iterator[tuple[str, Path]]:
        """The name and the path of every image, for a backup. Raises `OSError`."""
        for blob in self._all():
            path = blob.where
            folder = path.parent.parent
            yield path.name if folder == self._root else f"{folder.name}/{path.name}", path

    def age(self, name: str, written_at: float) -> None:
        """Set the time at which the image was put (Unix seconds), so that a restored image is
        pruned when the original would have been."""
        os.utime(self._path(name), (written_at, written_at))

    def _is_there(self, name: str) -> bool:
        # Without a Path, which would cost more than the look.
        return os.path.exists(f"{self._folder}/{_place(name)}")

    def _page(self, after: str, limit: int) -> list[tuple[str, float]]:
        found: list[tuple[str, float]] = []
        try:
            for number in range(int(after[:2] or "0", 16), 256):
                paths = (self._root / f"{number:02x}").glob("[0-9a-f]*")
                for path in sorted(path for path in paths if path.name > after and is_public_name(path.name)):
                    with suppress(FileNotFoundError):  # it was deleted just now
                        found.append((path.name, path.stat().st_mtime))
                    if len(found) == limit:
                        return found
        except OSError as error:
            raise _unavailable(error) from error
        return found

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
            surplus = blobs_to_prune(sorted(self._all()), before, max_bytes)
            for blob in surplus:
                blob.where.unlink(missing_ok=True)
            for partial in self._files(".*.part"):
                with suppress(FileNotFoundError):  # it was renamed just now
                    if partial.stat().st_mtime < before:
                        partial.unlink()
        except OSError as error:
            raise _unavailable(error) from error
        return len(surplus)

    def _all(self) -> Iterator[StoredBlob[Path]]:
        """Every image, with its path."""
        held = self._root / HELD
        for path in self._files("*"):
            with suppress(FileNotFoundError):
                if is_blob_name(path.name):
                    about = path.stat()
                    yield StoredBlob(about.st_mtime, about.st_size, path, path.parent.parent == held)

    def _files(self, pattern: str) -> Iterator[Path]:
        """The files of all folders that match the pattern."""
        for folder in (self._root, *(self._root / private for private in PRIVATE_FOLDERS)):
            yield from folder.glob(f"??/{pattern}")

    def _put(self, name: str, data: bytes) -> str:
        # Without a Path, as in `_is_there`.
        place = f"{self._folder}/{_place(name)}"
        try:
            try:
                os.utime(place)  # it was requested just now, so its age starts again
            except FileNotFoundError:
                _write_whole(place, data)
        except OSError as error:
            raise _unavailable(error) from error
        return name

    def _path(self, name: str) -> Path:
        return self._root / _place(name)


def _write_whole(place: str, data: bytes) -> None:
    """Writes the file whole or not at all: beside its place, to the disk, then renamed. Raises
    `OSError`."""
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
    """The path of an image below the root."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file[:2]}/{file}" if folder else f"{file[:2]}/{file}"


def blob_store_error(message: str, *, full: bool) -> BlobStoreUnavailable:
    """The error for a failed call of a blob store. Counts it. `full`: the store has no room
    left."""
    metrics.BLOB_STORE_ERRORS.labels("full" if full else "unavailable").inc()
    return (BlobStoreFull if full else BlobStoreUnavailable)(message)


def _unavailable(error: OSError) -> BlobStoreUnavailable:
    words = os.strerror(error.errno or 0)
    return blob_store_error(f"The directory of images failed: {words}.", full=error.errno in NO_ROOM)

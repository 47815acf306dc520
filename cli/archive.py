"""A backup as one tar file: the state, the images, RabbitMQ's definitions, and a manifest at the end.

The manifest names every other file with its size and SHA-256. Its own SHA-256 is in its file name.
A restore therefore detects a truncated or damaged archive before it writes anything.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Final

from pydantic import BaseModel, ValidationError

from backends.blobs import is_blob_name
from store.packed import RdbError
from store.rdb import Entry
from store.snapshot import from_line

FORMAT: Final = 1
"""Raised by one when an older `darkroom restore` cannot read the archive."""
STATE: Final = "state.jsonl.gz"
DEFINITIONS: Final = "rabbitmq.json"
PICTURES: Final = "pictures/"
RECEIPT: Final = "receipt.json"
"""The last file of a tenant's export, which is another kind of archive."""
_MANIFEST: Final = "manifest-"
_MOST_BYTES: Final = 1 << 30
"""The largest manifest that is read. A million images need a tenth of it."""
_CHUNK: Final = 1 << 20


class ArchiveRefused(Exception):
    """The file is not a complete archive that this version can read. The message says why."""


class File(BaseModel):
    """The size and SHA-256 (hexadecimal) of one file of an archive."""

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What an archive holds and where it comes from. Fields that a later version adds are ignored."""

    format: int
    version: str
    """The version of Darkroom that wrote the archive."""
    taken_at: float
    """The time of the state in this archive, in Unix seconds."""
    server: str
    """The version of the Redis or Valkey that held the state."""
    used_bytes: int
    """The memory that this server used."""
    keys: int
    bucket: str | None
    """The bucket that holds the images; None: the archive holds them."""
    settings: dict[str, str]
    """The settings of the platform, without passwords and keys."""
    files: dict[str, File]

    @property
    def pictures(self) -> list[str]:
        """The names of the images in the archive."""
        return [name.removeprefix(PICTURES) for name in self.files if name.startswith(PICTURES)]

    @property
    def picture_bytes(self) -> int:
        """The size of all images in the archive."""
        return sum(file.bytes for name, file in self.files.items() if name.startswith(PICTURES))


class _AnyManifest(BaseModel):
    """The field that the manifest of every version has."""

    format: int


class Writer:
    """Writes an archive to `out`, file by file; `out` may be a pipe.

    `close` adds the manifest and so completes it.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._tar = tarfile.open(fileobj=out, mode="w|")  # noqa: SIM115 - `close` does
        self.files: dict[str, File] = {}

    def add(self, name: str, file: BinaryIO, size: int, modified_at: float | None = None) -> None:
        """Adds a file `name` of the next `size` bytes of `file`.

        `modified_at` is in Unix seconds; None: now.
        """
        hashed = _Hashed(file)
        self._tar.addfile(_member(name, size, modified_at), hashed)
        self.files[name] = File(bytes=size, sha256=hashed.digest.hexdigest())

    def add_picture(self, name: str, path: Path) -> bool:
        """Adds the image `name` from the file `path`.

        Returns False, and adds nothing, if the file is gone or its bytes do not match its name.
        """
        try:
            about, data = path.stat(), path.read_bytes()
        except FileNotFoundError:
            return False
        if hashlib.sha256(data).hexdigest() != path.stem:
            return False
        self.add(PICTURES + name, io.BytesIO(data), len(data), about.st_mtime)
        return True

    def close(self, manifest: Manifest) -> None:
        """Adds the manifest, and ends the archive."""
        data = manifest.model_dump_json(indent=1).encode()
        self.end(f"{_MANIFEST}{hashlib.sha256(data).hexdigest()}.json", data)

    def end(self, name: str, data: bytes) -> None:
        """Adds the last file, which `files` does not contain, and ends the archive."""
        self._tar.addfile(_member(name, len(data), None), io.BytesIO(data))
        self._tar.close()


class _Hashed(io.RawIOBase):
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


def _member(name: str, size: int, modified_at: float | None) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o600
    member.mtime = int(time.time() if modified_at is None else modified_at)
    return member


def check(path: Path, on_bytes: Callable[[int], None]) -> Manifest:
    """Reads the whole archive, checks every file, and returns the manifest.

    `on_bytes` is called with the number of bytes of each piece read. Raises `ArchiveRefused`.
    """
    manifest, files = None, {}
    with _opened(path) as tar:
        for member in tar:
            if not member.isreg() or manifest is not None or member.name in files:
                raise ArchiveRefused(f"{path} is not a backup of Darkroom: it contains {member.name!r}.")
            data = tar.extractfile(member)
            if data is None:
                raise ArchiveRefused(f"{path} is damaged at {member.name!r}.")
            if member.name.startswith(_MANIFEST):
                manifest = _manifest(path, member, data)
                continue
            hashed = _Hashed(data)
            while piece := hashed.read(_CHUNK):
                on_bytes(len(piece))
            files[member.name] = File(bytes=member.size, sha256=hashed.digest.hexdigest())
    if manifest is None and RECEIPT in files:
        raise ArchiveRefused(f"{path} is not a backup of Darkroom, but the export of a tenant.")
    if manifest is None:
        raise ArchiveRefused(f"{path} is an incomplete backup: its end is missing.")
    for name in sorted({*files, *manifest.files}):
        picture = name.removeprefix(PICTURES) if name.startswith(PICTURES) else ""
        if name not in (STATE, DEFINITIONS) and not is_blob_name(picture):
            raise ArchiveRefused(f"{path} is not a backup of Darkroom: it contains {name!r}.")
        expected = manifest.files.get(name)
        if (
            expected is None
            or files.get(name) != expected
            or (picture and expected.sha256 != Path(picture).stem)
        ):
            raise ArchiveRefused(f"{path} is damaged: {name!r} does not match the manifest.")
    try:
        count = sum(1 for _ in entries(path))
    except (RdbError, KeyError, EOFError, OSError, zlib.error) as error:
        raise ArchiveRefused(f"{path} is damaged: its state cannot be read.") from error
    if count != manifest.keys:
        raise ArchiveRefused(f"{path} is damaged: it holds {count} of {manifest.keys} keys.")
    return manifest


def _manifest(path: Path, member: tarfile.TarInfo, file: Iterable[bytes]) -> Manifest:
    data = b"".join(file) if member.size <= _MOST_BYTES else b""
    if member.name != f"{_MANIFEST}{hashlib.sha256(data).hexdigest()}.json":
        raise ArchiveRefused(f"{path} is damaged: its manifest does not match its checksum.")
    try:
        number = int(_AnyManifest.model_validate_json(data).format)
        if number > FORMAT:
            raise ArchiveRefused(
                f"{path} has format {number}, and this version reads formats up to {FORMAT}: restore it with the version that wrote it."
            )
        return Manifest.model_validate_json(data)
    except ValidationError:
        raise ArchiveRefused(f"This version cannot read the manifest of {path}.") from None


def entries(path: Path) -> Iterator[Entry]:
    """Yields the state of an archive, key by key.

    Raises `RdbError`, `ArchiveRefused`, and for damaged data `OSError`, `EOFError`, `zlib.error`, `KeyError`.
    """
    with _opened(path) as tar:
        packed = tar.extractfile(STATE)
        if packed is None:
            raise RdbError("The archive has no state.")
        with gzip.open(packed) as lines:
            for line in lines:
                yield from_line(line)


def pictures(path: Path) -> Iterator[tuple[str, bytes, float]]:
    """Yields the name, the bytes and the time (Unix seconds) of every image of an archive.

    Raises `ArchiveRefused`.
    """
    with _opened(path) as tar:
        for member in tar:
            data = tar.extractfile(member)
            if data is not None and member.name.startswith(PICTURES):
                yield member.name.removeprefix(PICTURES), data.read(), float(member.mtime)


def definitions(path: Path) -> bytes:
    """Returns RabbitMQ's definitions (JSON) from an archive that has them. Raises `ArchiveRefused`."""
    with _opened(path) as tar:
        data = tar.extractfile(DEFINITIONS)
        return b"" if data is None else data.read()


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:") as tar:
            yield tar
    except tarfile.TarError as error:
        raise ArchiveRefused(f"{path} is not a backup of Darkroom, or it is damaged: {error}.") from None

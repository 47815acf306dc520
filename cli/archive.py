"""A backup as one file: a tar of the state, the pictures, RabbitMQ's definitions, and at its end a manifest that makes it whole.

The manifest names every other file with its size and SHA-256; its own SHA-256 is in its name. So a part of an archive, and one
that has changed by a bit, is known as such before anything is made of it.
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
"""Counted up when an older `darkroom restore` could not make sense of the archive."""
STATE: Final = "state.jsonl.gz"
DEFINITIONS: Final = "rabbitmq.json"
PICTURES: Final = "pictures/"
RECEIPT: Final = "receipt.json"
"""At the end of a tenant's export, which is another kind of archive."""
_MANIFEST: Final = "manifest-"
_MOST_BYTES: Final = 1 << 30
"""Of a manifest; a million pictures need a tenth of it."""
_CHUNK: Final = 1 << 20


class ArchiveRefused(Exception):
    """The file is no whole archive that this version can read; the message says why."""


class File(BaseModel):
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What an archive holds and where it comes from. What a later version adds is passed over, as long as the format is ours."""

    format: int
    version: str
    """Of Darkroom."""
    taken_at: float
    """When the state was as it is here; Unix seconds."""
    server: str
    """The version of Redis or Valkey."""
    used_bytes: int
    """Of memory, of the server that the state comes from."""
    keys: int
    bucket: str | None
    """Where the pictures are; None: here."""
    settings: dict[str, str]
    """Without passwords and keys."""
    files: dict[str, File]

    @property
    def pictures(self) -> list[str]:
        return [name.removeprefix(PICTURES) for name in self.files if name.startswith(PICTURES)]

    @property
    def picture_bytes(self) -> int:
        return sum(file.bytes for name, file in self.files.items() if name.startswith(PICTURES))


class _AnyManifest(BaseModel):
    """What the manifest of every version has."""

    format: int


class Writer:
    """Adds files one after another; `close` with the manifest makes it an archive. Writes straight on: `out` may be a pipe."""

    def __init__(self, out: BinaryIO) -> None:
        self._tar = tarfile.open(fileobj=out, mode="w|")  # noqa: SIM115 - `close` does
        self.files: dict[str, File] = {}

    def add(self, name: str, file: BinaryIO, size: int, modified_at: float | None = None) -> None:
        """The next `size` bytes of `file`."""
        hashed = _Hashed(file)
        self._tar.addfile(_member(name, size, modified_at), hashed)
        self.files[name] = File(bytes=size, sha256=hashed.digest.hexdigest())

    def add_picture(self, name: str, path: Path) -> bool:
        """The picture `name`, which lies at `path`. False: it has been deleted meanwhile, or is not what its name says, and is left out."""
        try:
            about, data = path.stat(), path.read_bytes()
        except FileNotFoundError:
            return False
        if hashlib.sha256(data).hexdigest() != path.stem:
            return False
        self.add(PICTURES + name, io.BytesIO(data), len(data), about.st_mtime)
        return True

    def close(self, manifest: Manifest) -> None:
        data = manifest.model_dump_json(indent=1).encode()
        self.end(f"{_MANIFEST}{hashlib.sha256(data).hexdigest()}.json", data)

    def end(self, name: str, data: bytes) -> None:
        """Adds the last file, which `files` does not name."""
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


def check(path: Path, told: Callable[[int], None]) -> Manifest:
    """Reads all of the archive, and answers its manifest. `told` hears of the bytes as they pass. Raises `ArchiveRefused`."""
    manifest, found = None, {}
    with _opened(path) as tar:
        for member in tar:
            if not member.isreg() or manifest is not None or member.name in found:
                raise ArchiveRefused(
                    f"{path} is no backup of Darkroom: {member.name!r} does not belong there."
                )
            data = tar.extractfile(member)
            if data is None:
                raise ArchiveRefused(f"{path} is damaged at {member.name!r}.")
            if member.name.startswith(_MANIFEST):
                manifest = _manifest(path, member, data)
                continue
            hashed = _Hashed(data)
            while piece := hashed.read(_CHUNK):
                told(len(piece))
            found[member.name] = File(bytes=member.size, sha256=hashed.digest.hexdigest())
    if manifest is None and RECEIPT in found:
        raise ArchiveRefused(f"{path} is no backup of Darkroom, but the export of a tenant.")
    if manifest is None:
        raise ArchiveRefused(f"{path} is only a part of a backup: its end is missing.")
    for name in sorted({*found, *manifest.files}):
        picture = name.removeprefix(PICTURES) if name.startswith(PICTURES) else ""
        if name not in (STATE, DEFINITIONS) and not is_blob_name(picture):
            raise ArchiveRefused(f"{path} holds {name!r}, which does not belong in a backup.")
        written = manifest.files.get(name)
        if (
            written is None
            or found.get(name) != written
            or (picture and written.sha256 != Path(picture).stem)
        ):
            raise ArchiveRefused(f"{path} is damaged: {name!r} is not what was written.")
    try:
        count = sum(1 for _ in entries(path))
    except (RdbError, KeyError, EOFError, OSError, zlib.error) as error:
        raise ArchiveRefused(f"{path} is damaged: its state cannot be read.") from error
    if count != manifest.keys:
        raise ArchiveRefused(f"{path} is damaged: it holds {count} keys of {manifest.keys}.")
    return manifest


def _manifest(path: Path, member: tarfile.TarInfo, file: Iterable[bytes]) -> Manifest:
    data = b"".join(file) if member.size <= _MOST_BYTES else b""
    if member.name != f"{_MANIFEST}{hashlib.sha256(data).hexdigest()}.json":
        raise ArchiveRefused(f"{path} is damaged: its manifest is not what was written.")
    try:
        number = int(_AnyManifest.model_validate_json(data).format)
        if number > FORMAT:
            raise ArchiveRefused(
                f"{path} is of format {number}, and this version reads up to {FORMAT}: restore it with the version that wrote it."
            )
        return Manifest.model_validate_json(data)
    except ValidationError:
        raise ArchiveRefused(f"{path} has no manifest that this version can read.") from None


def entries(path: Path) -> Iterator[Entry]:
    """The state of an archive, key by key. Raises `RdbError`, and what damage makes gzip and tarfile raise."""
    with _opened(path) as tar:
        packed = tar.extractfile(STATE)
        if packed is None:
            raise RdbError("There is no state.")
        with gzip.open(packed) as lines:
            for line in lines:
                yield from_line(line)


def pictures(path: Path) -> Iterator[tuple[str, bytes, float]]:
    """Name, bytes and time (Unix seconds) of every picture of an archive."""
    with _opened(path) as tar:
        for member in tar:
            data = tar.extractfile(member)
            if data is not None and member.name.startswith(PICTURES):
                yield member.name.removeprefix(PICTURES), data.read(), float(member.mtime)


def definitions(path: Path) -> bytes:
    """RabbitMQ's definitions, of an archive that has them."""
    with _opened(path) as tar:
        data = tar.extractfile(DEFINITIONS)
        return b"" if data is None else data.read()


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:") as tar:
            yield tar
    except tarfile.TarError as error:
        raise ArchiveRefused(f"{path} is no backup of Darkroom, or a damaged one: {error}.") from None

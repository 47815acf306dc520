"""The file of a list of known images: a header, and arrays that are mapped into memory.

The layout is the magic, the length of the header (eight bytes, little-endian), the header in JSON, and the
arrays, each at a multiple of 64 bytes. Processes that open the same file share its pages. A file is
replaced as a whole and never changed, so a process keeps what it has mapped.
"""

from __future__ import annotations

import json
import os
import secrets
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from contracts.documents import Frozen
from contracts.moderation import Category

MAGIC: Final = b"DKLIST1\n"
ALIGNMENT: Final = 64
MAX_HEADER_BYTES: Final = 1_000_000
CHUNK_BYTES: Final = 64 * 2**20

Array = NDArray[Any]


class InvalidList(ValueError):
    """The file is no list of known images, or is damaged. The message names it."""


class ArrayEntry(Frozen):
    """Where an array is, and what is in it. `offset` counts from the start of the file."""

    dtype: Literal["<u1", "<u4", "<u8", "<f2"]
    shape: tuple[Annotated[int, Field(ge=0)], ...]
    offset: Annotated[int, Field(ge=0)]
    crc32: int

    @property
    def nbytes(self) -> int:
        """The bytes of the array."""
        count = 1
        for each in self.shape:
            count *= each
        return count * np.dtype(self.dtype).itemsize


class Header(Frozen):
    """What a list says of itself."""

    category: Category
    counts: dict[str, int]
    """Hashes by kind, and what was left out."""
    clip: str = ""
    """The model of the embeddings, as `name@revision`. Empty: the list has none."""
    arrays: dict[str, ArrayEntry] = Field(default_factory=dict)

    @property
    def revision(self) -> str:
        """Eight hexadecimal digits that change with the contents."""
        sums = ",".join(f"{name}:{each.crc32}" for name, each in sorted(self.arrays.items()))
        return f"{zlib.crc32(sums.encode()):08x}"


def write(path: Path, header: Header, arrays: Mapping[str, Array]) -> Header:
    """Write a list, and answer its header as written. An older file is replaced at once. Raises `OSError`."""
    given = {name: np.ascontiguousarray(each) for name, each in arrays.items()}
    sums = {name: _crc32(each) for name, each in given.items()}
    # The offsets are in the header, whose length they change: its room is a bound.
    start = _aligned(len(MAGIC) + 8 + len(_json(header)) + 256 * len(given))
    entries, offset = {}, start
    for name, each in given.items():
        entries[name] = ArrayEntry(
            dtype=each.dtype.newbyteorder("<").str.replace("|", "<"),
            shape=each.shape,
            offset=offset,
            crc32=sums[name],
        )
        offset = _aligned(offset + each.nbytes)
    header = header.model_copy(update={"arrays": entries})
    raw = _json(header)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with partial.open("wb") as file:
            file.write(MAGIC + len(raw).to_bytes(8, "little") + raw)
            for name, each in given.items():
                file.seek(entries[name].offset)
                file.write(each.data)
            file.truncate(offset)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return header


def read(path: Path) -> tuple[Header, dict[str, Array]]:
    """The header and the arrays of a list, mapped read-only. Every byte is checked once.

    Raises `InvalidList` for a file that is none, that is cut short or damaged, or that cannot be read.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise InvalidList(
                    f"{path} is no list of known images. `darkroom moderation import` makes one of a CSV or a folder."
                )
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER_BYTES:
                raise InvalidList(f"{path} is damaged: its header is too long")
            header = Header.model_validate_json(file.read(length))
            size = os.fstat(file.fileno()).st_size
            if any(each.offset + each.nbytes > size for each in header.arrays.values()):
                raise InvalidList(f"{path} is cut short")
            arrays = {name: _mapped(path, each) for name, each in header.arrays.items()}
    except OSError as error:
        raise InvalidList(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise InvalidList(f"{path} is damaged, or of another version: its header cannot be read") from error
    for name, array in arrays.items():
        if _crc32(array) != header.arrays[name].crc32:
            raise InvalidList(f"{path} is damaged: {name} does not fit its checksum")
    return header, arrays


def unique_rows(rows: Array) -> Array:
    """The different rows of `rows` (N, W), in ascending order, the first column first."""
    rows = rows[np.lexsort(rows.T[::-1])]
    return rows[np.append(True, (rows[1:] != rows[:-1]).any(axis=1))] if len(rows) else rows


def _mapped(path: Path, entry: ArrayEntry) -> Array:
    if not entry.nbytes:
        return np.empty(entry.shape, entry.dtype)
    mapped = np.memmap(path, entry.dtype, "r", entry.offset, entry.shape)
    return mapped.view(np.ndarray)


def _crc32(array: Array) -> int:
    raw, found = array.reshape(-1).view(np.uint8), 0
    for at in range(0, len(raw), CHUNK_BYTES):
        found = zlib.crc32(raw[at : at + CHUNK_BYTES].data, found)
    return found


def _json(header: Header) -> bytes:
    return json.dumps(header.model_dump(mode="json")).encode()


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT

"""Vectors as the indexes take them, and which records an index refuses. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from contracts.pictures import PictureRecord
from search.index import Key, Refusal
from search.where import MAX_INTEGER

Floats: TypeAlias = npt.NDArray[np.float32]
Halves: TypeAlias = npt.NDArray[np.float16]

_UNIT_SLACK: Final = 0.02
"""How far the length of a record's vector may be from 1. Rounding to float16 changes it by less than 0.001."""
_MAX_SIDE: Final = 2**31 - 1
_NAME: Final = re.compile(r"[\x21-\x7e]{1,200}\Z")


def unit(raw: bytes, dimensions: int) -> Floats | None:
    """The vector of a query, scaled to length 1; None: it is none.

    Args:
        raw: little-endian float16 numbers.
        dimensions: how many there must be.

    Returns:
        float32 of shape `(dimensions,)`.
    """
    if len(raw) != 2 * dimensions:
        return None
    vector = np.frombuffer(raw, "<f2").astype(np.float32)
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0.0:
        return None
    return (vector / np.float32(length)).astype(np.float32)


def halves(raw: bytes) -> Halves:
    """The numbers of a record's vector, float16 of shape `(dimensions,)`."""
    return np.frombuffer(raw, "<f2")


def fault(record: PictureRecord, clip: str, dimensions: int) -> str | None:
    """Why an index of this model must refuse the record; None: it takes it."""
    if not is_name(record.name):
        return "its name is none of an image"
    if not is_scope(record.scope):
        return "its scope is none"
    if not (is_storable(record.model) and is_storable(record.lora)):
        return "the name of its model or LoRA is none"
    if record.seed is not None and not 0 <= record.seed < MAX_INTEGER:
        return "its seed is out of range"
    if max(record.width, record.height) > _MAX_SIDE:
        return "its size is out of range"
    if record.embedding is None:
        return "it has no vector"
    if record.embedding.model != clip:
        return f"its vector is by {record.embedding.model or 'no model'}, and the index holds those by {clip}"
    try:
        raw = record.embedding.raw()
    except ValueError:
        return "its vector is not base64"
    if len(raw) != 2 * dimensions:
        return f"its vector has {len(raw)} bytes instead of {2 * dimensions}"
    length: Any = np.linalg.norm(halves(raw).astype(np.float32))
    if not np.isfinite(length):
        return "its vector is not finite"
    if abs(length - 1.0) > _UNIT_SLACK:
        return f"its vector has the length {length:.3g} instead of 1"
    return None


def sorted_out(
    records: Sequence[PictureRecord], clip: str, dimensions: int
) -> tuple[list[PictureRecord], list[Refusal]]:
    """The records that an index of this model takes, the last one of each picture; and those that it refuses."""
    taken, refused = dict[Key, PictureRecord](), list[Refusal]()
    for record in records:
        reason = fault(record, clip, dimensions)
        if reason is None:
            taken[Key(record.scope, record.name)] = record
        else:
            refused.append(Refusal(record.scope, record.name, reason))
    return list(taken.values()), refused


def raw_of(record: PictureRecord) -> bytes:
    """The bytes of the vector of a record without a fault."""
    if record.embedding is None:
        raise AssertionError(record.name)
    return record.embedding.raw()


def is_name(name: str) -> bool:
    """Whether the text can be the name of an image."""
    return _NAME.match(name) is not None


def is_storable(text: str) -> bool:
    """Whether every engine can keep the text: it is Unicode, and has no NUL."""
    return "\x00" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def is_scope(scope: str) -> bool:
    """Whether the text can be a scope. The empty one is `contracts.pictures.SHARED`."""
    return not scope or _NAME.match(scope) is not None

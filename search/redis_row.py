"""What the index on Redis stores of a picture, and how it asks for some. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final, NamedTuple

from contracts.pictures import PictureRecord, Source
from search import vectors, words
from search.where import Where

_MOST: Final = 1e15


class Facts(NamedTuple):
    """What the words of a query and a filter need of a picture, as the hash `facts` keeps it."""

    expires_at: float
    created_at: float
    width: int
    height: int
    seed: int | None
    model: str
    lora: str
    source: Source
    terms: str


def row(record: PictureRecord) -> tuple[Any, ...]:
    """The arguments of `put.lua`."""
    raw = vectors.halves(vectors.raw_of(record)).astype("<f4").tobytes()
    attributes = {
        "e": _time(record.expires_at),
        "c": _time(record.created_at),
        "w": record.width,
        "h": record.height,
        "s": "" if record.seed is None else str(record.seed),
        "m": _digest(record.model),
        "l": _digest(record.lora),
        "o": record.source,
    }
    facts = Facts(
        record.expires_at,
        record.created_at,
        record.width,
        record.height,
        record.seed,
        record.model,
        record.lora,
        record.source,
        " ".join(words.terms(record.prompt)),
    )
    return (
        record.name,
        raw,
        json.dumps(attributes),
        record.model_dump_json(),
        record.created_at,
        record.expires_at,
        json.dumps(facts),
    )


def filter_of(where: Where) -> tuple[str, ...]:
    """The filter as VSIM takes it. Texts are compared by their digests, so none can be read as syntax."""
    parts = []
    for name, sign, value in (
        ("e", ">", where.alive_at),
        ("w", ">=", where.min_width),
        ("w", "<=", where.max_width),
        ("h", ">=", where.min_height),
        ("h", "<=", where.max_height),
        ("c", ">=", where.created_from),
        ("c", "<=", where.created_to),
    ):
        if value is not None:
            parts.append(f".{name} {sign} {_number(value)}")
    for name, text in (
        ("s", None if where.seed is None else str(where.seed)),
        ("m", None if where.model is None else _digest(where.model)),
        ("l", None if where.lora is None else _digest(where.lora)),
        ("o", where.source),
    ):
        if text is not None:
            parts.append(f'.{name} == "{text}"')
    return ("FILTER", " and ".join(parts)) if parts else ()


def _number(value: float) -> str:
    """A number as a filter takes it: without an exponent."""
    text = repr(_time(value))
    return text if "e" not in text else f"{value:.6f}"


def _time(value: float) -> float:
    """A number within what a filter takes."""
    return min(max(value, -_MOST), _MOST)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]

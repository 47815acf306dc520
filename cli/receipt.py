"""The receipt of an export or an erasure: what, of whom, when, how much of each kind; signed by its hash.

`sha256` is that of the other fields as canonical JSON: names sorted, no spaces, UTF-8. It tells a receipt that has changed from one that
has not. It does not tell who wrote it: whoever needs that keeps the hash where others cannot write.
"""

from __future__ import annotations

import hashlib
import json
import time
from importlib.metadata import version
from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from cli.archive import File

FORMAT: Final = 1


class Receipt(BaseModel):
    """Times are ISO 8601, in UTC."""

    receipt: Literal["export", "erase"]
    format: int = FORMAT
    tenant: str
    version: str = Field(default_factory=lambda: version("darkroom"))
    begun_at: str
    ended_at: str
    dry_run: bool = False
    """Nothing was erased: the counts are of what would be."""
    complete: bool = True
    counts: dict[str, int]
    """By kind; what an earlier erasure that broke off has erased is among it."""
    shared_pictures: int = 0
    """Pictures that stay, for a record or result of another tenant names them."""
    left: dict[str, int] = {}
    """What came while the command ran, by kind, and is still there."""
    remains: list[str] = []
    """What this command does not reach, and until when it is there."""
    files: dict[str, File] = {}
    """Of an export."""


def signed(receipt: Receipt) -> str:
    """The receipt as JSON, with its hash."""
    told = receipt.model_dump(mode="json")
    return json.dumps({**told, "sha256": _hash(told)}, indent=1, ensure_ascii=False) + "\n"


def is_whole(text: str | bytes) -> bool:
    """Whether a receipt is as it was written."""
    try:
        told: dict[str, Any] = json.loads(text)
        return bool(told.pop("sha256") == _hash(told))
    except (ValueError, KeyError, AttributeError):
        return False


def stamp(unix_s: float) -> str:
    """`2026-11-30T04:05:53Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))


def _hash(told: dict[str, Any]) -> str:
    canonical = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()

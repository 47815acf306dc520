"""The receipt of an export or an erasure: the tenant, the times, and the counts by kind, with a hash.

`sha256` is the hash of the other fields as canonical JSON: names sorted, no spaces, UTF-8. It shows
whether a receipt was changed. It does not show who wrote it. To prove that, keep the hash where
others cannot write.
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
    """A receipt without its hash. Times are ISO 8601, in UTC."""

    receipt: Literal["export", "erase"]
    format: int = FORMAT
    tenant: str
    version: str = Field(default_factory=lambda: version("darkroom"))
    begun_at: str
    ended_at: str
    dry_run: bool = False
    """Nothing was erased: the counts say what would be erased."""
    complete: bool = True
    counts: dict[str, int]
    """Counts by kind. They include what an earlier, interrupted erasure has erased."""
    shared_pictures: int = 0
    """Images that stay, because a record or result of another tenant names them."""
    left: dict[str, int] = {}
    """Counts by kind of data that was added while the command ran, and is still there."""
    remains: list[str] = []
    """What this command does not erase, and how long that exists."""
    files: dict[str, File] = {}
    """The files of an export."""


def signed(receipt: Receipt) -> str:
    """Returns the receipt as JSON, with its hash."""
    fields = receipt.model_dump(mode="json")
    return json.dumps({**fields, "sha256": _hash(fields)}, indent=1, ensure_ascii=False) + "\n"


def is_whole(text: str | bytes) -> bool:
    """Whether the JSON of a receipt is unchanged: its hash fits."""
    try:
        fields: dict[str, Any] = json.loads(text)
        return bool(fields.pop("sha256") == _hash(fields))
    except (ValueError, KeyError, AttributeError):
        return False


def stamp(unix_s: float) -> str:
    """Returns a time as `2026-11-30T04:05:53Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))


def _hash(fields: dict[str, Any]) -> str:
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()

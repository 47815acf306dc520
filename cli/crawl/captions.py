"""Captions: from the files beside a picture, and as a server takes them. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from cli.crawl.items import Reason
from contracts.pictures import MAX_CAPTION_CHARS

SIDECARS: Final = (".txt", ".json")
"""The endings of files with a caption, for a picture of the same name, with or without its own ending."""
MAX_SIDECAR_BYTES: Final = 2**20
FIELDS: Final = ("caption", "text", "prompt", "alt")
"""The fields of a JSON sidecar that may hold the caption, in order."""
_UNWANTED: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def sidecars_of(name: str) -> list[str]:
    """The names of files that may hold the caption of the picture `name`, the preferred one first."""
    stem = name.rpartition(".")[0]
    return [f"{beginning}{ending}" for ending in SIDECARS for beginning in (stem, name)]


def caption_in(name: str, data: bytes) -> str:
    """The caption in the sidecar `name`. Raises `ValueError` for one that holds none."""
    if len(data) > MAX_SIDECAR_BYTES:
        raise ValueError("it is too large")
    text = data.decode("utf-8-sig")
    if not name.endswith(".json"):
        return text
    found: Any = json.loads(text)
    if isinstance(found, Mapping):
        found = next((found[field] for field in FIELDS if field in found), None)
    if not isinstance(found, str):
        raise ValueError(f"it is neither a string nor an object with {', '.join(FIELDS)}")
    return found


def tidy(caption: str) -> tuple[str, Reason | None]:
    """The caption on one line, without control characters, and cut to the length that a server takes."""
    text = " ".join(_UNWANTED.sub(" ", caption).split())
    if len(text) <= MAX_CAPTION_CHARS:
        return text, None
    return text[:MAX_CAPTION_CHARS].rstrip(), Reason.CAPTION_CUT

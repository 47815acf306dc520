"""Typed requests and answers of the image search. No I/O."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final, Literal, TypedDict
from urllib.parse import quote, urlsplit

from client.errors import ImageWithheld
from client.models import Answer, Image


class SearchFilters(TypedDict, total=False):
    """Which images may be found. A filter that is None or left out does not filter. Times are Unix seconds."""

    model: str | None
    lora: str | None
    source: Literal["generated", "imported"] | None
    seed: int | None
    min_width: int | None
    max_width: int | None
    min_height: int | None
    max_height: int | None
    created_after: float | None
    """Inclusive."""
    created_before: float | None
    """Exclusive."""


class Evidence(Answer):
    """The rank of a hit in one list, from 1, and the list's own score."""

    rank: int
    score: float


class Hit(Answer):
    """An image that was found. A value that is not known is None."""

    name: str
    url: str
    """Relative to the server."""
    score: float
    """Higher is better. Comparable within one answer only."""
    why: dict[str, Evidence]
    """`vector`: what the image shows, with the cosine similarity as score. `words`: its prompt. `rerank`: what it shows by a
    second model. `clicks`: its share of the tenant's clicks on hits of this query."""
    reranked: bool | None = None
    """Whether a second model has placed it. False: its time was up, or the hit is beyond the first hundred."""
    prompt: str = ""
    """The prompt, or the caption of an imported image."""
    model: str = ""
    lora: str | None = None
    width: int
    height: int
    seed: int | None = None
    source: str = "generated"
    """generated or imported."""
    created_at: float
    """Unix seconds."""
    job_id: str | None = None
    origin: str | None = None
    """Where an imported image comes from."""


class SearchPage(Answer):
    """Hits, best first. `next_cursor` is None on the last page. `model` is the CLIP that compared the images."""

    data: tuple[Hit, ...]
    next_cursor: str | None = None
    model: str = ""


class Imported(Answer):
    """An imported image. `added` is False if it was imported before; then nothing was done."""

    name: str
    url: str
    """Relative to the server."""
    added: bool


class KnownFile(Answer):
    """A file that was imported before: its SHA-256, and the name of its image."""

    sha256: str
    name: str


class KnownFiles(Answer):
    """Files that were imported before."""

    data: tuple[KnownFile, ...]


class Rebuild(Answer):
    """How far a rebuild has come: jobs whose records were read. Times are Unix seconds."""

    started_at: float
    records: int
    finished_at: float | None = None


class SearchIndex(Answer):
    """What the search index holds, and how many jobs it still waits for. `rebuild` is the last one."""

    model: str
    images: int
    bytes_on_disk: int
    bytes_in_memory: int
    owed_jobs: int
    rebuild: Rebuild | None = None


Named = Hit | Image | str
"""An image of the platform: a hit, a job's image, a URL, or the name itself."""


def name_of(image: Named) -> str:
    """Returns the name of an image of the platform: the last part of its URL. Raises `ImageWithheld`."""
    if isinstance(image, Hit):
        return image.name
    url = image if isinstance(image, str) else image.url
    if url is None:
        raise ImageWithheld(image.verdict if isinstance(image, Image) else "")
    return urlsplit(url).path.rpartition("/")[2]


def similar_path(image: Named) -> str:
    """Returns the path that answers with images that look like this one."""
    return f"/v1/images/{quote(name_of(image), safe='')}/similar"


IMPORTS: Final = "/v1/search/images"
"""The path of imported images."""


def import_path(image: Named) -> str:
    """Returns the path of an imported image."""
    return f"{IMPORTS}/{quote(name_of(image), safe='')}"


def import_body(image: bytes, caption: str, origin: str) -> dict[str, str]:
    """Returns the body of an import."""
    return {"image": base64.b64encode(image).decode("ascii"), "caption": caption, "origin": origin}


def paging(limit: int, cursor: str | None) -> dict[str, Any]:
    """Returns the fields for one page of a search."""
    return {"limit": limit, **({"cursor": cursor} if cursor else {})}


def query(
    q: str,
    image: bytes | None,
    like: Named | None,
    filters: Mapping[str, Any],
    limit: int,
    cursor: str | None,
) -> dict[str, Any]:
    """Returns the body of a search. What is None or empty is left out."""
    given = {
        "q": q or None,
        "image": None if image is None else base64.b64encode(image).decode("ascii"),
        "like": None if like is None else name_of(like),
        **filters,
    }
    wanted = {name: value for name, value in given.items() if value is not None}
    return {**wanted, **paging(limit, cursor)}

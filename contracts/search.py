"""What the API and the search process say to each other, as JSON over HTTP.

The API decodes images that clients send, in a process that it can kill, and encodes them again. The
search process reads no file of a stranger.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from contracts.documents import Document, Frozen
from contracts.pictures import PictureRecord, Source

MAX_LIMIT: Final = 100
"""The most hits of one answer."""
MAX_QUERY_CHARS: Final = 2_000
MAX_OFFSET: Final = 10_000
"""How deep a search may be paged. Without words or image, there is no such limit."""

Reason = Literal["vector", "words", "rerank", "clicks"]


class Filters(Frozen):
    """Which images may be found. None: any. An empty `lora`: images without an adapter."""

    model: str | None = None
    lora: str | None = None
    source: Source | None = None
    seed: int | None = None
    min_width: int | None = None
    max_width: int | None = None
    min_height: int | None = None
    max_height: int | None = None
    created_after: float | None = None
    """Unix seconds, inclusive."""
    created_before: float | None = None
    """Unix seconds, exclusive."""


class SearchQuery(Frozen):
    """A search by text, by an image, or by an image of the index (`like`). Without any: the newest first.

    `scopes` are the scopes that the caller may see, its own first. `image` is the base64 of a PNG that the API wrote.
    `cursor` continues an answer to the same query.
    """

    scopes: tuple[str, ...]
    text: Annotated[str, Field(max_length=MAX_QUERY_CHARS)] = ""
    like: str = ""
    image: str = ""
    filters: Filters = Filters()
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 20
    cursor: str = ""


class Evidence(Document):
    """Why an image is a hit: its rank in one list, from 1, and the list's own score.

    The scores of `vector` and `rerank` are cosine similarities, by two models. The score of `words` is that
    of the engine, the score of `clicks` the image's smoothed share of the clicks.
    """

    rank: int
    score: float


class Hit(Document):
    """One image that was found. `picture` has no embedding."""

    picture: PictureRecord
    score: float
    why: dict[Reason, Evidence]
    reranked: bool | None = None
    """Whether the second model has placed it. False: its time was up, or the image was not among the
    first hundred. None: there is no second model, or nothing to compare with.
    """


class SearchAnswer(Document):
    """The hits, best first. `cursor` continues them; None: there are no more."""

    hits: tuple[Hit, ...]
    cursor: str | None = None
    clip: str = ""
    """The model that compared them, as `name@revision`."""


class TextVectors(Document):
    """Embeddings of texts, each the base64 of little-endian float16 numbers of length 1."""

    clip: str
    vectors: tuple[str, ...]


class Texts(Frozen):
    """Texts to embed."""

    texts: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)]


class Rebuild(Document):
    """How far a rebuild of the index has come. `cursor` is that of `PictureOutbox.scan`; times are Unix seconds."""

    started_at: float
    cursor: str = ""
    seen: int = 0
    """Records that were read."""
    finished_at: float | None = None


class IndexState(Document):
    """How much the index holds, and how much of it is still to come."""

    clip: str
    pictures: int
    bytes_on_disk: int
    bytes_in_memory: int
    owed: int
    rebuild: Rebuild | None = None
    """The last rebuild; None: there was none."""

"""Fuses what vectors and words found into one list, with the reasons of each hit, and pages through it. Pure.

Reciprocal rank fusion adds 1 / (k + rank) over the lists that a picture is in. It needs no common scale
of the scores. (Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion Outperforms Condorcet and
Individual Rank Learning Methods", SIGIR 2009.)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError

from contracts.documents import Frozen
from contracts.errors import InvalidRequest
from search.index import MAX_COUNT, Key, Match, Place

K: Final = 60
"""The paper's constant. With it, the first hundred of a list differ by less than a factor of three."""
DEPTH: Final = 100
"""How many pictures each list gives to the first pages."""
_DIGEST_CHARS: Final = 22
_PLACE_TIME: Final = TypeAdapter(Annotated[float, Field(allow_inf_nan=False)])
_PLACE_NAME: Final = TypeAdapter(Annotated[str, Field(max_length=100)])


@dataclass(frozen=True, slots=True)
class Rank:
    """Where a picture stands in one list: its rank, from 1, and its score there."""

    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class Hit:
    """One picture of the fused list, and why it is there.

    `score` orders the list. `vector.score` and `rerank.score` are cosine similarities, by two models.
    `words.score` has the scale of its engine. `clicks.score` is the picture's share of the clicks. None:
    the picture is not in that list.
    """

    key: Key
    score: float
    vector: Rank | None = None
    words: Rank | None = None
    rerank: Rank | None = None
    clicks: Rank | None = None


def fuse(nearest: Sequence[Match], by_words: Sequence[Match], scopes: Sequence[str]) -> list[Hit]:
    """The pictures of both lists, the best first.

    Args:
        nearest: pictures by similarity, the best first.
        by_words: pictures by words, the best first.
        scopes: the scopes of the query. An image that is in two of them is one hit, in the earlier one.
    """
    order = {scope: at for at, scope in reversed(list(enumerate(scopes)))}
    vector, words = _places(nearest), _places(by_words)
    keys: dict[str, Key] = {}
    for match in (*nearest, *by_words):
        known = keys.get(match.name)
        if known is None or _order(order, match.scope) < _order(order, known.scope):
            keys[match.name] = match.key
    hits = [
        Hit(
            key,
            _reciprocal(vector.get(name)) + _reciprocal(words.get(name)),
            vector.get(name),
            words.get(name),
        )
        for name, key in keys.items()
    ]
    return sorted(hits, key=lambda hit: (-hit.score, hit.vector is None, hit.key.name))


def deepened(nearest: Sequence[Match], by_words: Sequence[Match], scopes: Sequence[str]) -> list[Hit]:
    """As `fuse`, for lists of any depth. The first `DEPTH` hits are those of lists that end there.

    So later pages, which look deeper, and a model that ranks the first hits again see the same ones.
    """
    first = fuse(nearest[:DEPTH], by_words[:DEPTH], scopes)[:DEPTH]
    known = {hit.key.name for hit in first}
    least = first[-1].score if first else 0.0
    rest = (hit for hit in fuse(nearest, by_words, scopes) if hit.key.name not in known)
    return first + [replace(hit, score=min(hit.score, least)) for hit in rest]


def rerank(hits: Sequence[Hit], scores: Mapping[str, float]) -> list[Hit]:
    """The hits that have a score by another model, in their new order; then the others, in their order.

    The list by the new scores takes the place of the list of vectors. It is fused with that of the words,
    as `fuse` does: what words say is not lost on a model that sees pictures alone.

    Args:
        hits: the hits, the best first.
        scores: the new score of pictures, by their names.
    """
    scored = [hit for hit in hits if hit.key.name in scores]
    by_score = sorted(scored, key=lambda hit: (-scores[hit.key.name], -hit.score, hit.key.name))
    placed = [replace(hit, rerank=Rank(rank, scores[hit.key.name])) for rank, hit in enumerate(by_score, 1)]
    placed.sort(key=lambda hit: -(_reciprocal(hit.rerank) + _reciprocal(hit.words)))
    return rescored(hits, placed + [hit for hit in hits if hit.key.name not in scores])


def rescored(before: Sequence[Hit], after: Sequence[Hit]) -> list[Hit]:
    """The hits of `after`, with the scores of `before` in their order: the best hit has the best score."""
    return [replace(hit, score=old.score) for hit, old in zip(after, before, strict=True)]


def depth(offset: int, limit: int) -> int:
    """How many pictures each list must give for a page."""
    return DEPTH if offset + limit <= DEPTH else MAX_COUNT


def digest(scopes: Sequence[str], query: Mapping[str, Any]) -> str:
    """What a cursor is bound to: the scopes, and all that was asked. `query` must be fit for JSON."""
    text = json.dumps([list(scopes), dict(query)], sort_keys=True, separators=(",", ":"))
    raw = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return base64.urlsafe_b64encode(raw).decode("ascii")[:_DIGEST_CHARS]


class Cursor(Frozen):
    """Where a page begins. Clients pass it back as they got it.

    `as_of`: the time of the first page, in Unix seconds. Later pages leave out pictures made after it, so
    new pictures move nothing.
    """

    query: str
    offset: Annotated[int, Field(ge=0, lt=MAX_COUNT)]
    last: str
    """The name of the last hit before the page."""
    as_of: float
    reranked: bool = False
    """Whether the first page was ranked again. Later pages keep its order."""

    def text(self) -> str:
        """The cursor as clients see it."""
        parts = [self.query, self.offset, self.last, self.as_of, self.reranked]
        raw = json.dumps(parts, separators=(",", ":"))
        return base64.urlsafe_b64encode(raw.encode()).decode("ascii").rstrip("=")

    @classmethod
    def parse(cls, text: str, query: str) -> Cursor:
        """The cursor of `text`. Raises `InvalidRequest` if it is none, or of another query than `query` (a `digest`)."""
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            bound, offset, last, as_of, reranked = json.loads(raw)
            cursor = cls(query=bound, offset=offset, last=last, as_of=as_of, reranked=reranked)
        except (binascii.Error, ValueError, TypeError, RecursionError, ValidationError):
            raise InvalidRequest("This is no cursor of a search.", param="cursor") from None
        if cursor.query != query:
            raise InvalidRequest("The cursor belongs to another search.", param="cursor")
        return cursor


def place_text(place: Place, query: str) -> str:
    """A cursor of the newest images, as clients see it. `query` is the `digest` of the query."""
    raw = json.dumps([query, place.created_at, place.name], separators=(",", ":"))
    return base64.urlsafe_b64encode(raw.encode()).decode("ascii").rstrip("=")


def parse_place(text: str, query: str) -> Place:
    """The place of such a cursor. Raises `InvalidRequest` if it is none, or of another query."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        bound, created_at, name = json.loads(raw)
        place = Place(
            _PLACE_TIME.validate_python(created_at, strict=True),
            _PLACE_NAME.validate_python(name, strict=True),
        )
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise InvalidRequest("This is no cursor of a search.", param="cursor") from None
    if bound != query:
        raise InvalidRequest("The cursor belongs to another search.", param="cursor")
    return place


def page(
    hits: Sequence[Hit],
    limit: int,
    cursor: Cursor | None,
    query: str,
    now: float,
    *,
    complete: bool,
    reranked: bool = False,
) -> tuple[list[Hit], Cursor | None]:
    """One page of the hits, and the cursor of the next; None: there is no next.

    Args:
        hits: the whole list, made with `depth` pictures of each list.
        limit: the most hits of a page.
        cursor: where the page begins; None: at the first hit.
        query: the `digest` of the query.
        now: Unix seconds.
        complete: both lists ended before their depth, so that deeper ones hold no more.
        reranked: the list was ranked again.
    """
    start, as_of = (0, now) if cursor is None else (_start(hits, cursor), cursor.as_of)
    found = list(hits[start : start + limit])
    end = start + len(found)
    if not found or end >= MAX_COUNT or (complete and end >= len(hits)):
        return found, None
    following = Cursor(query=query, offset=end, last=found[-1].key.name, as_of=as_of, reranked=reranked)
    return found, following


def _start(hits: Sequence[Hit], cursor: Cursor) -> int:
    """Just after the last hit before the page. If it has been deleted, the offset says where that was."""
    for at, hit in enumerate(hits):
        if hit.key.name == cursor.last:
            return at + 1
    return cursor.offset


def _places(matches: Sequence[Match]) -> dict[str, Rank]:
    places: dict[str, Rank] = {}
    for match in matches:
        places.setdefault(match.name, Rank(len(places) + 1, match.score))
    return places


def _reciprocal(place: Rank | None) -> float:
    return 0.0 if place is None else 1.0 / (K + place.rank)


def _order(order: Mapping[str, int], scope: str) -> int:
    return order.get(scope, len(order))

"""The settings of a process that searches."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from contracts.setting_types import Count, Port, Seconds
from contracts.settings import BackendSettings, SimilarFloor
from contracts.urls import POSTGRES, REDIS, REDIS_GROUPS, postgres_url, redis_url

EMBEDDED: Final = "embedded:"

IndexKind = Literal["embedded", "redis", "postgres"]


def index_kind(text: str) -> IndexKind:
    """Which engine the setting `search_index` names."""
    scheme = urlsplit(text).scheme
    if scheme == EMBEDDED[:-1]:
        return "embedded"
    return "redis" if scheme in (*REDIS, *REDIS_GROUPS) else "postgres"


def _search_index(text: str) -> str:
    kind = index_kind(text)
    if kind == "redis":
        return redis_url(text)
    if kind == "postgres":
        if urlsplit(text).scheme not in POSTGRES:
            raise ValueError("it must be embedded:FOLDER, redis://host or postgresql://host/database")
        return postgres_url(text)
    if not text.removeprefix(EMBEDDED).strip():
        raise ValueError("embedded: needs a folder, as in embedded:/data/search")
    return text


SearchIndex = Annotated[str, AfterValidator(_search_index)]
"""`embedded:FOLDER`, a URL of Redis as in `contracts.urls`, or `postgresql://user:password@host/database`."""


class SearchSettings(BackendSettings):
    """The settings of a process that searches."""

    search_index: SearchIndex = "embedded:.cache/search"
    """The index: `embedded:FOLDER` for one process, `redis://host` (Redis 8 or newer), or `postgresql://host/database` with pgvector."""
    search_exact_below: Count = 50_000
    """A tenant with fewer pictures than this is searched exactly. For more, an approximate graph is faster."""
    search_timeout_s: Seconds = 5.0
    """The longest time of one call to an index on Redis or PostgreSQL."""
    search_connections: Count = 16
    """Connections of one process to an index on Redis or PostgreSQL."""
    clip: str = ""
    """The CLIP or SigLIP of the search: a folder, an embedded model, or a hub id, as the workers have it."""
    search_host: str = "127.0.0.1"
    search_port: Port = 8010
    """The port at which the API asks; 0: a free one."""
    search_token: Annotated[str, Field(repr=False)] = ""
    """What the API must show to this process; empty: nothing."""
    search_concurrency: Count = 2
    """How many groups of images one process indexes at once."""
    similar_floor: SimilarFloor = None
    """The DARKROOM_SIMILAR_FLOOR of the API. A process with one below the fitted floor of its CLIP does not start."""
    rerank_clip: str = ""
    """A second, heavier CLIP or SigLIP that ranks the best hundred again: a folder, an embedded model, or a hub id. Empty: none."""
    rerank_budget_s: Seconds = 0.25
    """The longest time that ranking again may add to a search. Then the search is answered in the order that it had."""
    rerank_vectors: Count = 100_000
    """How many images the second model's vectors are kept of."""
    rerank_cache: str = ""
    """The file that keeps these vectors; empty: they are in memory, and gone with the process."""
    metrics_port: Port = 0
    """The port of the process's `/metrics`, `/healthz` and `/readyz`; 0: none."""

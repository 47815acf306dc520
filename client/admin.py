"""Typed requests and answers of the calls for operators (keys, cache), and of a tenant's webhooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from client.models import Answer


class KeyFields(TypedDict, total=False):
    """The fields of a new API key besides its tenant. A limit that is None or left out does not limit."""

    name: str
    scopes: Sequence[Literal["generate", "moderate", "admin"]]
    requests_per_minute: float | None
    burst: int | None
    concurrent_jobs: int | None
    queued_jobs: int | None
    images_per_day: int | None
    weight: float | None
    priorities: Sequence[Literal["interactive", "batch"]] | None


class Key(Answer):
    """An API key without its secret. `id` is the beginning of the key. Times are Unix seconds."""

    id: str
    name: str
    tenant: str
    scopes: tuple[str, ...]
    limits: dict[str, Any]
    created_at: float
    revoked_at: float | None = None


class NewKey(Key):
    """A new key. `key` is its secret, which the server does not show again."""

    key: str


class KeyPage(Answer):
    """All keys, newest first."""

    data: tuple[Key, ...]


class CacheStats(Answer):
    """Jobs by how the cache answered them, and what the cache holds. A value that is not known is None."""

    hits: int
    misses: int
    joined: int
    hit_rate: float | None = None
    """Hits among all jobs."""
    saved_rate: float | None = None
    """Hits and joined jobs among all jobs."""
    entries: int
    memory_bytes: int
    memory_limit_bytes: int | None = None
    evictions: int


class Purged(Answer):
    """How many results were forgotten."""

    purged: int


class Attempt(Answer):
    """One call of a webhook's receiver. Without an answer `status_code` is None and `error` says why."""

    at: float
    duration_ms: float
    status_code: int | None = None
    error: str | None = None


class Delivery(Answer):
    """The delivery of a job's webhook. `url` is None if the job names none. Times are Unix seconds."""

    id: str
    url: str | None = None
    event: str | None = None
    status: str | None = None
    """pending, delivered, failed or disabled; None: there is nothing to deliver yet."""
    attempts: tuple[Attempt, ...] = ()
    next_attempt_at: float | None = None


class WebhookSecret(Answer):
    """The secret that signs your webhooks. `previous` still signs too until `previous_expires_at`, in Unix seconds."""

    secret: str
    created_at: float
    previous: str | None = None
    previous_expires_at: float | None = None

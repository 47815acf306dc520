"""Who calls and what they may use: API keys, tenants, limits, accounts and idempotency keys.

A key is `dk_` and 43 base62 digits: 256 bits. The store keeps the key's id, which is its first eleven
characters, and the SHA-256 of the whole key. A slow hash would add nothing: random keys have no
dictionary.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from contracts.documents import Document, Versioned
from contracts.jobs import NewJob

TOKEN_PATTERN: Final = r"^dk_[0-9A-Za-z]{43}$"  # noqa: S105
TENANT_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"
ID_CHARS: Final = 11
ANONYMOUS_TENANT: Final = "public"
"""The tenant of all callers without a key, where the settings allow them."""
ADMIN_TENANT: Final = "admin"
"""The tenant of the admin key in the settings."""
RESERVED_TENANTS: Final = frozenset({ANONYMOUS_TENANT, ADMIN_TENANT})
"""The platform's own tenants. No key in the store belongs to them, so none can be revoked."""
_DIGITS: Final = string.digits + string.ascii_letters
_TENANT = re.compile(TENANT_PATTERN.replace("$", r"\Z"))
_TOKEN = re.compile(TOKEN_PATTERN.replace("$", r"\Z"))


class Scope(StrEnum):
    """What a key may do."""

    GENERATE = "generate"
    """Submit jobs; read, list and cancel the tenant's own."""
    MODERATE = "moderate"
    """Look at held images of all tenants, and decide on them."""
    ADMIN = "admin"
    """Manage API keys and everything else that concerns all tenants."""


Priority = Literal["interactive", "batch"]
PRIORITIES: Final[tuple[Priority, ...]] = ("interactive", "batch")


class Limits(Document):
    """What one key may use; null: without limit."""

    requests_per_minute: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="Submits per minute, as a longer average; each item of a batch is one.",
    )
    burst: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Submits at once; by default as many as in one minute."
    )
    concurrent_jobs: int | None = Field(
        default=None, ge=1, le=10_000, description="Jobs that have not ended."
    )
    queued_jobs: int | None = Field(
        default=None, ge=1, le=10_000, description="Jobs that have not begun to run."
    )
    images_per_day: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        description="Images of accepted jobs, from the cache or not, per day of UTC.",
    )
    weight: float = Field(
        default=1.0, gt=0, le=1000, description="Its tenant's share of the devices against that of others."
    )
    priorities: tuple[Priority, ...] = Field(
        default=PRIORITIES,
        strict=False,
        min_length=1,
        max_length=2,
        description="Priority classes that it may ask for.",
    )

    @property
    def burst_size(self) -> int:
        """Submits that may come at once."""
        return self.burst or max(1, int(self.requests_per_minute or 1))

    @property
    def holds(self) -> bool:
        """Whether a limit needs the key's live jobs."""
        return self.concurrent_jobs is not None or self.queued_jobs is not None

    @property
    def any(self) -> bool:
        """Whether any limit on jobs, rate or images is set."""
        return self.holds or self.requests_per_minute is not None or self.images_per_day is not None


class ApiKey(Versioned):
    """A stored API key. Times are Unix seconds."""

    id: str
    name: str
    tenant: str
    digest: str = Field(repr=False)
    """SHA-256 of the whole key, in hex."""
    scopes: tuple[Scope, ...]
    limits: Limits = Limits()
    created_at: float
    revoked_at: float | None = None

    def opens_with(self, token: str) -> bool:
        """Whether `token` is this key, compared in constant time."""
        return hmac.compare_digest(self.digest, digest_of(token))


def new_token() -> str:
    """A new random key. It is shown once and never stored."""
    return "dk_" + "".join(secrets.choice(_DIGITS) for _ in range(43))


def is_token(text: str) -> bool:
    """Whether `text` has the form of a key."""
    return _TOKEN.match(text) is not None


def is_tenant(text: str) -> bool:
    """Whether `text` has the form of a tenant's name."""
    return _TENANT.match(text) is not None


def id_of(token: str) -> str:
    """The id of a well-formed key, which is its public part."""
    return token[:ID_CHARS]


def digest_of(token: str) -> str:
    """SHA-256 of a key, in hex."""
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Charge:
    """What one job costs its key.

    `computed`: the job is no cache hit, so it will be live for a while. `repeats`: the same job may be
    charged again by a copy of its request, and counts once.
    """

    job_id: str
    images: int
    computed: bool = True
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Account:
    """A key's account after a charge.

    `refused` names the limit that was exceeded, a field of `Limits`; empty: the job was charged. `live` and `queued`
    count jobs.
    """

    refused: str
    retry_after_s: float
    full_in_s: float
    """Seconds until the whole burst is available again."""
    live: int
    queued: int
    images: int
    """Images charged today (UTC)."""
    day_ends_in_s: float


def _absent(value: object) -> bool:
    return value is None


class Reservation(Document):
    """The job that an `Idempotency-Key` stands for.

    The job is decided before it is recorded, so every request with the key records the same job. `done`:
    the job is accepted for good.
    """

    fingerprint: str
    """SHA-256 of the request's body."""
    new: NewJob | None = Field(default=None, exclude_if=_absent)
    """The job to record. Removed once it is accepted, so its texts are kept only in the job record."""
    job_id: str | None = Field(default=None, exclude_if=_absent)
    """The job's id, in place of `new`."""
    tenant: str | None = Field(default=None, exclude_if=_absent)
    """The job's tenant, in place of `new`. Earlier versions did not write it."""
    done: bool = False

    @model_validator(mode="after")
    def _names_a_job(self) -> Self:
        if self.new is None and self.job_id is None:
            raise ValueError("it stands for no job")
        return self

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job_id or ("" if self.new is None else self.new.id)

    def settled(self) -> Reservation:
        """This reservation after its job is accepted for good."""
        tenant = self.tenant if self.new is None else self.new.tenant
        return self.model_copy(update={"new": None, "job_id": self.id, "tenant": tenant, "done": True})

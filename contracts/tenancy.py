"""Who calls and what they may use: API keys, the tenants they speak for, their limits; and the ports that keep account.

A key is `dk_` and 43 base62 digits: 256 bits. What is kept of it is its id, the first eight digits, by which it is found
and recognised, and the SHA-256 of the whole. A slow hash would add nothing: there is no dictionary of such keys.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, Protocol, Self

from pydantic import Field, model_validator

from contracts.documents import Document, Versioned
from contracts.jobs import NewJob

TOKEN_PATTERN: Final = r"^dk_[0-9A-Za-z]{43}$"  # noqa: S105
TENANT_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"
ID_CHARS: Final = 11
ANONYMOUS_TENANT: Final = "public"
"""Everyone who comes without a key, where that is allowed."""
ADMIN_TENANT: Final = "admin"
"""The tenant of the key of the settings."""
RESERVED_TENANTS: Final = frozenset({ANONYMOUS_TENANT, ADMIN_TENANT})
"""The platform's own: no key in the store speaks for them, so none can be revoked."""
_DIGITS: Final = string.digits + string.ascii_letters
_TENANT = re.compile(TENANT_PATTERN.replace("$", r"\Z"))
_TOKEN = re.compile(TOKEN_PATTERN.replace("$", r"\Z"))


class Scope(StrEnum):
    GENERATE = "generate"
    """Submit jobs; read, list and cancel the tenant's own."""
    ADMIN = "admin"
    """Keys, and whatever else concerns all tenants."""


Priority = Literal["interactive", "batch"]
PRIORITIES: Final[tuple[Priority, ...]] = ("interactive", "batch")


class Limits(Document):
    """What one key may use; null: as much as it likes."""

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
        description="Pictures of accepted jobs, from the cache or not, per day of UTC.",
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
        return self.burst or max(1, int(self.requests_per_minute or 1))

    @property
    def holds(self) -> bool:
        """Whether its live jobs must be known."""
        return self.concurrent_jobs is not None or self.queued_jobs is not None

    @property
    def any(self) -> bool:
        return self.holds or self.requests_per_minute is not None or self.images_per_day is not None


class ApiKey(Versioned):
    """A key at rest. Times are Unix seconds."""

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
    """A fresh key, to be shown once and never kept."""
    return "dk_" + "".join(secrets.choice(_DIGITS) for _ in range(43))


def is_token(text: str) -> bool:
    """Whether `text` has the form of a key."""
    return _TOKEN.match(text) is not None


def is_tenant(text: str) -> bool:
    """Whether `text` has the form of a tenant's name."""
    return _TENANT.match(text) is not None


def id_of(token: str) -> str:
    """The public part of a well-formed key."""
    return token[:ID_CHARS]


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class KeyStore(Protocol):
    """API keys. A revoked one stays, to say what it was, until its tenant is erased. Raises `StoreUnavailable`."""

    async def create(self, key: ApiKey) -> bool:
        """Keep a new key; false where its id is taken."""
        ...

    async def find(self, key_id: str) -> ApiKey | None:
        """The key of that id, revoked or not."""
        ...

    async def list(self) -> Sequence[ApiKey]:
        """Every key, newest first."""
        ...

    async def revoke(self, key_id: str, now: float) -> ApiKey:
        """End a key at `now`, unless it has ended before. Raises `KeyNotFound`."""
        ...


@dataclass(frozen=True, slots=True)
class Charge:
    """What one job costs its key. `computed`: it will be live for a while, being no hit. `repeats`: the same job may be
    charged again, by a copy of its request, and counts once."""

    job_id: str
    images: int
    computed: bool = True
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Account:
    """A key's account after a charge. `refused` names the limit that forbade it, a field of `Limits`; empty: charged."""

    refused: str
    retry_after_s: float
    full_in_s: float
    """Until the whole burst may be used again, in seconds."""
    live: int
    queued: int
    images: int
    """Of today."""
    day_ends_in_s: float


class QuotaLedger(Protocol):
    """Accounts of keys. It holds every live job of a key, and perhaps some that have ended since: `settle` it by the job
    records before a refusal for `concurrent_jobs` or `queued_jobs` is believed. Raises `StoreUnavailable`."""

    async def admit(
        self, key_id: str, limits: Limits, charge: Charge, *, charge_rate: bool = True
    ) -> Account:
        """Charge all or, except for the rate, nothing. `charge_rate` false: the request was counted already."""
        ...

    async def refund(self, key_id: str, limits: Limits, charge: Charge) -> None:
        """The charged job was not recorded after all. Its rate stays charged: it was a request."""
        ...

    async def held(self, key_id: str) -> Sequence[tuple[str, float]]:
        """The jobs held, and how many seconds ago each was admitted."""
        ...

    async def settle(
        self, key_id: str, ended: Sequence[str], running: Sequence[str], queued: Sequence[str]
    ) -> None:
        """Let go of jobs that have ended, and note which of the others run."""
        ...


def _absent(value: object) -> bool:
    return value is None


class Reservation(Document):
    """What an `Idempotency-Key` stands for: the one job, decided before it is recorded, so that whoever comes with the key
    records the same one. `done`: it is accepted for good."""

    fingerprint: str
    """SHA-256 of the request's body."""
    new: NewJob | None = Field(default=None, exclude_if=_absent)
    """The job to record. Gone once it is accepted: its record has the texts, and they are kept once."""
    job_id: str | None = Field(default=None, exclude_if=_absent)
    """The job's id, in place of `new`."""
    tenant: str | None = Field(default=None, exclude_if=_absent)
    """Whose it is, in place of `new`. Earlier versions did not write it."""
    done: bool = False

    @model_validator(mode="after")
    def _names_a_job(self) -> Self:
        if self.new is None and self.job_id is None:
            raise ValueError("it stands for no job")
        return self

    @property
    def id(self) -> str:
        """Of the job."""
        return self.job_id or ("" if self.new is None else self.new.id)

    def settled(self) -> Reservation:
        """The reservation of the job once that is accepted for good."""
        tenant = self.tenant if self.new is None else self.new.tenant
        return self.model_copy(update={"new": None, "job_id": self.id, "tenant": tenant, "done": True})


class IdempotencyStore(Protocol):
    """Idempotency keys of tenants, each for a day. Raises `StoreUnavailable`."""

    async def find(self, tenant: str, key: str) -> Reservation | None: ...

    async def reserve(self, tenant: str, key: str, reservation: Reservation) -> Reservation:
        """The key's reservation: the given one, or the one that was quicker."""
        ...

    async def complete(self, tenant: str, key: str, reservation: Reservation) -> None:
        """The reserved job is accepted."""
        ...

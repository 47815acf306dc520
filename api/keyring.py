"""Who makes a request: from its API key to the tenant of that key, or a person who has signed in."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from api.connections import owner
from contracts.errors import InvalidApiKey, PermissionDenied, Unauthenticated
from contracts.jobs import Priority
from contracts.ports.clock import Clock
from contracts.ports.key_store import KeyStore
from contracts.sessions import Session
from contracts.settings import ApiSettings
from contracts.tenancy import (
    ADMIN_TENANT,
    ANONYMOUS_TENANT,
    PRIORITIES,
    ApiKey,
    Scope,
    digest_of,
    id_of,
    is_token,
)
from runtime.lru import LruCache

REMEMBER_S: Final = 1.0
"""How long a key that was looked up is remembered, in seconds. A revoked key may work for as long."""
MAX_REMEMBERED: Final = 10_000
"""How many keys are remembered."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, and from which address.

    `headers` are added to the answer, whatever it is. `key` None: without an API key. A person who has signed in
    has a key that is in no store, and `person` names the person for audit trails.
    """

    tenant: str
    key: ApiKey | None = None
    headers: dict[str, str] = field(default_factory=dict)
    address: str = ""
    person: str | None = None

    @property
    def holder(self) -> str:
        """The name under which streams, waits and reads are counted: the id of the key, or without
        a key the address."""
        return owner(self.address) if self.key is None else self.key.id

    def require(self, scope: Scope) -> None:
        """Check that the caller has `scope`.

        Raises `PermissionDenied`, or `Unauthenticated` if it came without a key.
        """
        if self.key is None and scope is not Scope.GENERATE:
            raise Unauthenticated(f"This needs an API key with the scope {scope}.")
        if self.key is not None and scope not in self.key.scopes:
            who = "The API key" if self.person is None else "Your sign-in"
            raise PermissionDenied(f"{who} lacks the scope {scope}.", details={"required_scope": scope.value})

    @property
    def key_id(self) -> str | None:
        """The public part of the key; None: the caller came without one."""
        return None if self.key is None else self.key.id

    @property
    def rules(self) -> bool:
        """Whether the caller may see the jobs of all tenants."""
        return self.key is not None and Scope.ADMIN in self.key.scopes

    @property
    def limited(self) -> bool:
        """Whether jobs of the caller count against limits of its key."""
        return self.key is not None and self.key.limits.any

    @property
    def charged_key_id(self) -> str | None:
        """The key whose images of the day jobs count against; None: it has no such limit."""
        return None if self.key is None or self.key.limits.images_per_day is None else self.key.id

    @property
    def weight(self) -> float:
        """The share of the devices that the caller's tenant gets, relative to other tenants."""
        return 1.0 if self.key is None else self.key.limits.weight

    def priority(self, requested: str | None) -> Priority:
        """The priority class of a job: the `requested` one (None: the best that the key allows).

        Raises `PermissionDenied`.
        """
        allowed = PRIORITIES if self.key is None else self.key.limits.priorities
        if requested is None:
            return next(Priority(name) for name in PRIORITIES if name in allowed)
        if requested not in allowed:
            raise PermissionDenied(
                f"The API key may not ask for the priority {requested}.",
                param="priority",
                details={"allowed_priorities": list(allowed)},
            )
        return Priority(requested)


class KeyRing:
    """Finds the holder of an API key. Each key is looked up in the store at most once a second."""

    def __init__(self, keys: KeyStore, settings: ApiSettings, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock
        self._anonymous = settings.anonymous
        self._local_only = settings.allow_anonymous is None
        """No setting allows anonymous callers. They are allowed because the server listens on
        loopback only."""
        self._admin = None if settings.admin_key is None else _admin(settings.admin_key, clock.now())
        self._known = LruCache[str, tuple[float, ApiKey]](MAX_REMEMBERED)
        self._looking: dict[str, asyncio.Task[ApiKey | None]] = {}

    async def principal(
        self, token: str | None, headers: dict[str, str], address: str, *, proxied: bool = False
    ) -> Principal:
        """The caller who presents `token` (None: no key). `headers` are those of its answer.

        `proxied`: the request came through a proxy, so `address` is not the client's. Raises
        `Unauthenticated`, `InvalidApiKey`, `StoreUnavailable`.
        """
        if token is None or (self._anonymous and not token.startswith("dk_")):
            if self._anonymous and self._local_only and proxied:
                raise Unauthenticated(
                    "This server serves local clients without a key, and this request came through a proxy. Set "
                    "DARKROOM_ALLOW_ANONYMOUS=true to serve everybody, or false and give clients API keys."
                )
            # Some clients, such as OpenAI's, must send a key. Here any text is accepted as one.
            if self._anonymous:
                return Principal(ANONYMOUS_TENANT, None, headers, address)
            raise Unauthenticated(
                "This server needs an API key: send it as Authorization: Bearer dk_..., or as X-API-Key."
            )
        key = await self._find(token) if is_token(token) else None
        if key is None or key.revoked_at is not None:
            raise InvalidApiKey("The API key is not valid: unknown, or revoked.")
        return Principal(key.tenant, key, headers, address)

    async def _find(self, token: str) -> ApiKey | None:
        if self._admin is not None and self._admin.opens_with(token):
            return self._admin
        key_id = id_of(token)
        known = self._known.get(key_id)
        if known is not None and known[0] > self._clock.monotonic():
            key: ApiKey | None = known[1]
        else:
            key = await self._looked_up(key_id)
        return key if key is not None and key.opens_with(token) else None

    async def _looked_up(self, key_id: str) -> ApiKey | None:
        # Requests that arrive meanwhile share the answer. One that is cancelled must not end it for
        # the others.
        task = self._looking.get(key_id)
        if task is None:
            task = self._looking[key_id] = asyncio.create_task(self._look_up(key_id))
            task.add_done_callback(lambda done: self._looked(key_id, done))
        return await asyncio.shield(task)

    def _looked(self, key_id: str, done: asyncio.Task[ApiKey | None]) -> None:
        self._looking.pop(key_id, None)
        if not done.cancelled():
            done.exception()  # known to those who waited for it, if any still do

    async def _look_up(self, key_id: str) -> ApiKey | None:
        asked_at = self._clock.monotonic()
        key = await self._keys.find(key_id)
        # Unknown ids are not remembered: a client can invent any number of them.
        if key is not None:
            self._known[key_id] = (asked_at + REMEMBER_S, key)
        return key


def principal_of(session: Session, headers: dict[str, str], address: str) -> Principal:
    """The person who has signed in. `headers` are those of the answer."""
    key = ApiKey(
        id=session.person_id,
        name=session.name,
        tenant=ADMIN_TENANT,
        digest="",
        scopes=session.scopes,
        created_at=session.began_at,
    )
    return Principal(ADMIN_TENANT, key, headers, address, session.person)


def _admin(token: str, now: float) -> ApiKey:
    return ApiKey(
        id=id_of(token),
        name="admin key of the settings",
        tenant=ADMIN_TENANT,
        digest=digest_of(token),
        scopes=tuple(Scope),
        created_at=now,
    )

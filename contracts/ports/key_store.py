"""The port of the API keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from contracts.tenancy import ApiKey


class KeyStore(Protocol):
    """API keys. A revoked key stays on record until its tenant is erased. Raises `StoreUnavailable`."""

    async def create(self, key: ApiKey) -> bool:
        """Store a new key; false if its id is taken."""
        ...

    async def find(self, key_id: str) -> ApiKey | None:
        """The key with this id, revoked or not."""
        ...

    async def list(self) -> Sequence[ApiKey]:
        """Every key, newest first."""
        ...

    async def revoke(self, key_id: str, now: float) -> ApiKey:
        """Revoke a key at `now` (Unix seconds), unless it is revoked already. Raises `KeyNotFound`."""
        ...

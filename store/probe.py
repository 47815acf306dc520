"""Whether Redis lets the platform do what it does, found by trying, and in which words it refuses. Leaves nothing behind."""

from __future__ import annotations

import ssl
from enum import StrEnum
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    NoPermissionError,
    ReadOnlyError,
    ResponseError,
)

from backends.redis_client import store_errors
from contracts.errors import StoreUnavailable
from store.key_names import PREFIX

NAME: Final = f"{PREFIX}probe"
"""A key that is never there, and a channel that nobody listens to."""


class Refusal(StrEnum):
    """Why a Redis that answers is of no use. The value completes "The job store ..."."""

    CREDENTIALS = "refuses this user or password"
    RIGHTS = "does not let this user do what is needed"
    REPLICA = "is a replica that takes no writes"
    DISK = "takes no writes, for it cannot write to its disk"
    REPLICAS = "takes no writes, for it has too few replicas"


# https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors: the first word is the kind of the error.
_KINDS: Final = {
    "MISCONF": Refusal.DISK,
    "NOREPLICAS": Refusal.REPLICAS,
    "READONLY": Refusal.REPLICA,
    "NOPERM": Refusal.RIGHTS,
    "NOAUTH": Refusal.CREDENTIALS,
    "WRONGPASS": Refusal.CREDENTIALS,
}


def refusal(error: BaseException | None) -> Refusal | None:
    """What an error of redis-py says, where the server answered at all. Pure."""
    match error:
        case AuthenticationError() | AuthenticationWrongNumberOfArgsError():
            return Refusal.CREDENTIALS
        case NoPermissionError():
            return Refusal.RIGHTS
        case ReadOnlyError():
            return Refusal.REPLICA
        case ResponseError():
            return _KINDS.get(str(error).partition(" ")[0])
        case _:
            return None


def tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """The fault of TLS behind an error, where it is one: redis-py and asyncio wrap it. Pure."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


async def probe(client: Redis, what: str, timeout_s: float) -> None:
    """Raises `StoreUnavailable`, in the words of `Refusal` where the server gave a reason."""
    try:
        async with store_errors(what, timeout_s):
            # Deletes nothing, and is refused wherever a write would be.
            await client.delete(NAME)
            await client.publish(NAME, "")
    except StoreUnavailable as error:
        found = refusal(error.__cause__)
        if found is None:
            raise
        raise StoreUnavailable(f"The {what} {found}.") from error.__cause__

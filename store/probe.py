"""Tries whether Redis allows what the platform does, and names the reason if it refuses. Leaves
nothing behind."""

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
"""A key that never exists, and a channel without listeners."""


class Refusal(StrEnum):
    """Why a Redis that answers cannot be used. The value completes "The job store ..."."""

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
    """The reason in an error of redis-py; None: the server gave none. Pure."""
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
    """The TLS error behind an error of redis-py or asyncio, which wrap it; None: there is none.
    Pure."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


async def probe(client: Redis, what: str, timeout_s: float) -> None:
    """Raises `StoreUnavailable` unless Redis takes writes. The message has the words of `Refusal`
    if the server gave a reason."""
    try:
        async with store_errors(what, timeout_s):
            # It deletes nothing, and is refused wherever a write would be.
            await client.delete(NAME)
            await client.publish(NAME, "")
    except StoreUnavailable as error:
        reason = refusal(error.__cause__)
        if reason is None:
            raise
        raise StoreUnavailable(f"The {what} {reason}.") from error.__cause__

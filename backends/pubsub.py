"""Listening to Redis channels on a separate connection. The subscription is in force before the
first message could be missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from backends.redis_client import pubsub_of, store_errors
from contracts.errors import StoreUnavailable
from runtime.tasks import end

LISTEN_S: Final = 1.0
"""Seconds of one wait for a message."""


async def subscribe(client: Redis, channels: Sequence[str], what: str, timeout_s: float) -> PubSub:
    """A subscription that is in force. `what` names the store in errors. Raises
    `StoreUnavailable`."""
    async with store_errors(what, timeout_s):
        pubsub = await pubsub_of(client)
    try:
        async with store_errors(what, timeout_s):
            await pubsub.subscribe(*channels)
            # In force once the server has confirmed every channel. Messages may arrive before the
            # last confirmation.
            confirmed = 0
            while confirmed < len(channels):
                message = await pubsub.get_message(timeout=timeout_s)
                confirmed += message is not None and message["type"] == "subscribe"
    except BaseException:
        await pubsub.aclose()  # type: ignore[no-untyped-call]
        raise
    return pubsub


async def listen(pubsub: PubSub, on_message: Callable[[str], None]) -> None:
    """Pass every message to `on_message` until the connection is lost, then close it.

    redis-py reconnects and subscribes again by itself, and messages in between are lost. A second
    confirmation of the subscription shows it, and ends this call.
    """
    try:
        while True:
            message = await pubsub.get_message(timeout=LISTEN_S)
            if message is None:
                continue
            if message["type"] == "message":
                on_message(message["data"])
                if not _drain(pubsub, on_message):
                    return
            elif message["type"] == "subscribe":
                return
    except (RedisError, OSError):
        return
    finally:
        with suppress(RedisError, OSError):
            await pubsub.aclose()  # type: ignore[no-untyped-call]


def _drain(pubsub: PubSub, on_message: Callable[[str], None]) -> bool:
    """Passes on the messages that arrived together with one already read. False: the connection is
    a new one.

    A script publishes several messages at once. Reading each through redis-py costs a timer, a lock
    and six calls.
    """
    reader = getattr(getattr(pubsub.connection, "_parser", None), "_reader", None)
    if reader is None:
        return True  # not hiredis
    while isinstance(reply := reader.gets(), list):
        if reply[0] == "message":
            on_message(reply[2])
        elif reply[0] == "subscribe":
            return False
    return True


async def messages(
    client: Redis, channels: Sequence[str], what: str, timeout_s: float
) -> AsyncGenerator[str]:
    """The messages of the channels. Ends when the connection is lost or cannot be made."""
    received: asyncio.Queue[str | None] = asyncio.Queue()
    try:
        pubsub = await subscribe(client, channels, what, timeout_s)
    except StoreUnavailable:
        return
    listening = asyncio.create_task(listen(pubsub, received.put_nowait), name=what)
    listening.add_done_callback(lambda _: received.put_nowait(None))
    try:
        while (message := await received.get()) is not None:
            yield message
    finally:
        await end(listening)

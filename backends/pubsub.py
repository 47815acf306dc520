"""Listening to Redis channels: one connection of its own, subscribed before the first message is missed."""

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
from contracts.tasks import end

LISTEN_S: Final = 1.0


async def subscribe(client: Redis, channels: Sequence[str], what: str, timeout_s: float) -> PubSub:
    """A subscription that is in force. Raises `StoreUnavailable`."""
    async with store_errors(what, timeout_s):
        pubsub = await pubsub_of(client)
    try:
        async with store_errors(what, timeout_s):
            await pubsub.subscribe(*channels)
            # In force once the server has said so for each; some may speak before the last is.
            confirmed = 0
            while confirmed < len(channels):
                message = await pubsub.get_message(timeout=timeout_s)
                confirmed += message is not None and message["type"] == "subscribe"
    except BaseException:
        await pubsub.aclose()  # type: ignore[no-untyped-call]
        raise
    return pubsub


async def listen(pubsub: PubSub, hear: Callable[[str], None]) -> None:
    """Hand every message to `hear`; returns when the connection is lost, and closes it in any case. The client library connects
    and subscribes again by itself: what was said meanwhile is lost all the same, and the second confirmation tells."""
    try:
        while True:
            message = await pubsub.get_message(timeout=LISTEN_S)
            if message is None:
                continue
            if message["type"] == "message":
                hear(message["data"])
                if not _heard_all(pubsub, hear):
                    return
            elif message["type"] == "subscribe":
                return
    except (RedisError, OSError):
        return
    finally:
        with suppress(RedisError, OSError):
            await pubsub.aclose()  # type: ignore[no-untyped-call]


def _heard_all(pubsub: PubSub, hear: Callable[[str], None]) -> bool:
    """Hands on what has come along with a message that was read. False: the connection is another. A script says several things at once,
    and each that redis-py reads by itself costs a timer, a lock and six calls."""
    reader = getattr(getattr(pubsub.connection, "_parser", None), "_reader", None)
    if reader is None:
        return True  # not hiredis
    while isinstance(reply := reader.gets(), list):
        if reply[0] == "message":
            hear(reply[2])
        elif reply[0] == "subscribe":
            return False
    return True


async def messages(
    client: Redis, channels: Sequence[str], what: str, timeout_s: float
) -> AsyncGenerator[str]:
    """What is said on the channels; ends when the connection is lost, or cannot be had."""
    heard: asyncio.Queue[str | None] = asyncio.Queue()
    try:
        pubsub = await subscribe(client, channels, what, timeout_s)
    except StoreUnavailable:
        return
    listening = asyncio.create_task(listen(pubsub, heard.put_nowait), name=what)
    listening.add_done_callback(lambda _: heard.put_nowait(None))
    try:
        while (message := await heard.get()) is not None:
            yield message
    finally:
        await end(listening)

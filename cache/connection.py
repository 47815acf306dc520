"""How we talk to Redis: one client per server, bounded waits, and the one place where its errors become ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from contracts.errors import StoreUnavailable

MAX_CONNECTIONS: Final = 64
RETRIES: Final = 2
"""After a restart of the server every pooled connection is dead: the retry is what makes that invisible."""
HEALTH_CHECK_S: Final = 15.0


def connect(url: str, timeout_s: float) -> Redis:
    """A client of the server at `url`; nothing is sent yet. No single wait takes longer than `timeout_s` seconds."""
    pool = BlockingConnectionPool.from_url(
        url,
        decode_responses=True,
        max_connections=MAX_CONNECTIONS,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        health_check_interval=HEALTH_CHECK_S,
        # A timeout is not tried again: the caller's patience is over, and the server is no better for more load.
        retry=Retry(
            ExponentialBackoff(cap=0.1, base=0.02), RETRIES, supported_errors=(RedisConnectionError,)
        ),
    )
    return Redis.from_pool(pool)


@asynccontextmanager
async def reaching(what: str, timeout_s: float) -> AsyncIterator[None]:
    """Bounds what runs inside to `timeout_s` seconds in all, and raises `StoreUnavailable` for every fault of Redis."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except (RedisError, OSError) as error:  # TimeoutError is an OSError
        raise StoreUnavailable(f"The {what} did not answer: {type(error).__name__}.") from error

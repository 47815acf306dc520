"""How we talk to Redis: one client per server, sentinel group or cluster, bounded waits, and the one place where its errors
become ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode, ClusterPipeline
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool, SentinelManagedConnection
from redis.backoff import ExponentialBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from contracts.errors import SettingsError, StoreFull, StoreUnavailable

MAX_CONNECTIONS: Final = 64
RETRIES: Final = 2
"""After a restart of the server every pooled connection is dead: the retry is what makes that invisible."""
HEALTH_CHECK_S: Final = 15.0
DRIVER: Final = DriverInfo()
"""What connections tell the server of us. Made once: it is read from the package's metadata on disk."""
QUEUE_S: Final = 3.0
"""How long a call may wait for a free connection, on top of what the server may take: a crowd is no fault of the server's."""


class _Ours(AbstractConnection):
    """Bounds what is read to `bound_s` seconds, as redis-py does, and leaves what is sent to `store_errors`; notices a connection that
    was reset while it lay idle.

    With redis-py's own `socket_timeout`, `asyncio.wait_for` makes a task of every command, a sixth of what it costs; and before
    Python 3.12 that swallows a cancellation which arrives as the command has been sent.
    """

    def __init__(self, *, bound_s: float, **options: Any) -> None:
        super().__init__(**options, socket_timeout=None)
        self._bound_s = bound_s

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        # redis-py 8.1 (#4287): from Python 3.12 on, writing to such a connection is an error of asyncio's inner parts.
        if self._writer is not None and self._writer.is_closing():
            await self.disconnect(nowait=True)
            raise RedisConnectionError("The connection was reset.")
        await super().send_packed_command(command, check_health)

    async def read_response(
        self,
        disable_decoding: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 - redis-py's own signature
        **options: Any,
    ) -> Any:
        if timeout is not None:
            return await super().read_response(disable_decoding, timeout, **options)
        try:
            async with asyncio.timeout(self._bound_s):
                return await super().read_response(disable_decoding, **options)
        except TimeoutError:
            raise RedisTimeoutError(f"No answer within {self._bound_s:g} s.") from None


class _Plain(_Ours, Connection):
    pass


class _Tls(_Ours, SSLConnection):
    def _connection_arguments(self) -> Mapping[str, Any]:
        # redis-py reads the files of certificates once; a renewed one must count at the next connection.
        self.ssl_context.context = None
        return super()._connection_arguments()


class _Managed(_Ours, SentinelManagedConnection):
    pass


class _Gated(Redis):
    """Waits its turn where its connections would run out; those of a sentinel group refuse a caller too many."""

    def __init__(self, *given: Any, limit: int, **named: Any) -> None:
        super().__init__(*given, **named)
        self._gate = asyncio.Semaphore(limit)

    async def execute_command(self, *given: Any, **options: Any) -> Any:
        async with self._gate:
            return await super().execute_command(*given, **options)  # type: ignore[no-untyped-call]


class _GatedCluster(RedisCluster):
    """As `_Gated`: the connections to each node of a cluster are limited, too."""

    def __init__(self, *given: Any, limit: int, **named: Any) -> None:
        super().__init__(*given, **named)
        self._gate = asyncio.Semaphore(limit)

    async def execute_command(self, *given: Any, **options: Any) -> Any:
        async with self._gate:
            with _closed_under_it():
                return await super().execute_command(*given, **options)

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:
        return _Pipeline(self, transaction)  # type: ignore[abstract]


class _Pipeline(ClusterPipeline):
    async def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> list[Any]:
        with _closed_under_it():
            return await super().execute(raise_on_error, allow_redirections)


@contextmanager
def _closed_under_it() -> Iterator[None]:
    """redis-py 8.1: whoever is canceled while it reads the cluster's layout, or tries a pipeline again after a node has gone, closes
    connections that others are using, which then have no writer; and see `_Ours`."""
    try:
        yield
    except (AttributeError, TypeError) as error:
        raise RedisConnectionError("The connection was closed under the call.") from error


def connect(url: str, timeout_s: float, max_connections: int = MAX_CONNECTIONS) -> Redis:
    """A client of the server at `url`; nothing is sent yet. No single wait takes longer than `timeout_s` seconds.

    `redis://` and `rediss://` name one server, `redis+sentinel://host:26379,host:26379/NAME/DB` what the sentinels call
    NAME, `redis+cluster://host:6379,host:6379` a cluster by some of its nodes. Raises `SettingsError`.
    """
    common: dict[str, Any] = {
        "decode_responses": True,
        "socket_connect_timeout": timeout_s,
        "health_check_interval": HEALTH_CHECK_S,
        "driver_info": DRIVER,
    }
    # A timeout is not tried again: the caller's patience is over, and the server is no better for more load.
    retry = Retry(ExponentialBackoff(cap=0.1, base=0.02), RETRIES, supported_errors=(RedisConnectionError,))
    scheme = urlsplit(url).scheme
    if scheme == "redis+sentinel":
        return _of_sentinels(url, common | {"retry": retry}, timeout_s, max_connections)
    if scheme == "redis+cluster":
        user, password, hosts, _ = _parts(url)
        nodes = [ClusterNode(host, port) for host, port in hosts]
        cluster = _GatedCluster(
            limit=max(1, max_connections // 4),  # the rest is for pipelines
            startup_nodes=nodes,
            # A slot that has moved is noted as such. Reading the whole layout anew instead, as redis-py does by default after five
            # of them, closes all connections under the calls that use them.
            reinitialize_steps=0,
            username=user,
            password=password,
            max_connections=max_connections,
            socket_timeout=timeout_s,
            **common,
        )
        return cast("Redis", cluster)  # the same in all that we use of it
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=timeout_s + QUEUE_S,
        retry=retry,
        bound_s=timeout_s,
        **common,
    )
    pool.connection_class = _Tls if scheme == "rediss" else _Plain
    return Redis.from_pool(pool)


async def disconnect(client: Redis) -> None:
    """Close all connections of a client, those to its sentinels as well."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, SentinelConnectionPool):
        await pool.disconnect()
        await asyncio.gather(*(each.aclose() for each in pool.sentinel_manager.sentinels))


def _of_sentinels(url: str, common: dict[str, Any], timeout_s: float, max_connections: int) -> Redis:
    user, password, hosts, path = _parts(url)
    name, _, database = path.partition("/")
    if not name:
        raise SettingsError(f"redis+sentinel:// needs the name of the group: host:port/NAME/DB, not {path!r}")
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        hosts,
        sentinel_kwargs={
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "driver_info": DRIVER,
        },
    )
    pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
        name,
        sentinel,
        username=user,
        password=password,
        db=int(database or 0),
        max_connections=max_connections,
        connection_class=_Managed,
        bound_s=timeout_s,
        **common,
    )
    return _Gated(connection_pool=pool, limit=max(1, max_connections // 2))


def _parts(url: str) -> tuple[str | None, str | None, list[tuple[str, int]], str]:
    """User, password, hosts and path of a URL with several hosts. Raises `SettingsError`."""
    parts = urlsplit(url)
    credentials, _, listed = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    hosts = []
    for each in listed.split(","):
        host, _, port = each.rpartition(":")
        if not host or not port.isdigit():
            raise SettingsError(f"{parts.scheme}:// needs host:port, host:port ..., not {each!r}")
        hosts.append((host.strip("[]"), int(port)))
    return unquote(user) or None, unquote(password) or None, hosts, parts.path.strip("/")


@asynccontextmanager
async def store_errors(what: str, timeout_s: float) -> AsyncIterator[None]:
    """Bounds what runs inside to `timeout_s` seconds in all, besides the wait for a connection, and raises
    `StoreUnavailable` for every fault of Redis; `StoreFull` where it answers that it has no room."""
    try:
        async with asyncio.timeout(timeout_s + QUEUE_S):
            yield
    except (RedisError, OSError) as error:  # TimeoutError is an OSError
        if is_full(error):
            raise StoreFull(f"The {what} is full: Redis is at its maxmemory.") from error
        raise StoreUnavailable(f"The {what} did not answer: {type(error).__name__}.") from error


def is_full(error: BaseException) -> bool:
    """Whether Redis refused to write because it is at its `maxmemory`. Pure."""
    # Redis 6.2 wraps what a script met into an error of another kind.
    return isinstance(error, OutOfMemoryError) or "OOM command not allowed" in str(error)


async def pubsub_of(client: Redis, **options: Any) -> PubSub:
    """A subscriber on a connection of its own. A cluster's needs to know the nodes first. Raises what Redis does."""
    several: Any = client
    if isinstance(several, RedisCluster):
        await several.initialize()
    return client.pubsub(**options)


def unlink(pipeline: Any, key: str) -> None:
    """Deletes the key with the pipeline, which may be a cluster's."""
    # redis-py 8.1: `unlink` of a cluster's pipeline is a coroutine, which queues nothing unless it is awaited, and raises if it is.
    pipeline.execute_command("UNLINK", key)


async def pages(
    client: Redis, what: str, timeout_s: float, pattern: str, count: int
) -> AsyncIterator[list[str]]:
    """The keys that match, page by page, of every node where there are several. Each page is bounded as in `store_errors`, and
    raises as it does."""
    options: list[dict[str, Any]] = [{}]
    several: Any = client
    if isinstance(several, RedisCluster):
        async with store_errors(what, timeout_s):
            await several.initialize()
        options = [{"target_nodes": node} for node in several.get_primaries()]
    for option in options:
        cursor: Any = 0
        while True:
            async with store_errors(what, timeout_s):
                cursor, names = await client.scan(cursor, match=pattern, count=count, **option)
            if isinstance(cursor, dict):
                cursor = next(iter(cursor.values()))
            if names:
                yield [str(name) for name in names]
            if not cursor:
                break

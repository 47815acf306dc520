"""Connections to Redis: one client per server, sentinel group or cluster, with bounded waits. Here
alone, errors of redis-py become ours."""

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
"""After a restart of the server every pooled connection is dead. The retry hides that from the
caller."""
HEALTH_CHECK_S: Final = 15.0
"""Seconds that a connection may be idle before redis-py checks it."""
DRIVER: Final = DriverInfo()
"""What connections tell the server about the client. Made once, since it is read from the package's
metadata on disk."""
QUEUE_S: Final = 3.0
"""Seconds that a call may wait for a free connection, on top of the server's time: a long queue is
no fault of the server."""


class _BoundedConnection(AbstractConnection):
    """Bounds each read to `bound_s` seconds, as redis-py does, and leaves the bound on writes to
    `store_errors`. Notices a connection that was reset while idle.

    With redis-py's own `socket_timeout`, `asyncio.wait_for` makes a task of every command, a sixth
    of its cost. Before Python 3.12 it also swallows a cancellation that arrives just after the
    command was sent.
    """

    def __init__(self, *, bound_s: float, **options: Any) -> None:
        super().__init__(**options, socket_timeout=None)
        self._bound_s = bound_s

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        # redis-py 8.1 (#4287): from Python 3.12 on, a write to such a connection raises an internal
        # error of asyncio.
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


class _PlainConnection(_BoundedConnection, Connection):
    pass


class _TlsConnection(_BoundedConnection, SSLConnection):
    def _connection_arguments(self) -> Mapping[str, Any]:
        # redis-py reads certificate files once. A renewed certificate must count for the next
        # connection.
        self.ssl_context.context = None
        return super()._connection_arguments()


class _SentinelConnection(_BoundedConnection, SentinelManagedConnection):
    pass


class _LimitedRedis(Redis):
    """Makes calls wait for a free connection. The pool of a sentinel group raises an error when its
    connections run out."""

    def __init__(self, *arguments: Any, limit: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._gate = asyncio.Semaphore(limit)

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:
        async with self._gate:
            return await super().execute_command(*arguments, **options)  # type: ignore[no-untyped-call]


class _LimitedCluster(RedisCluster):
    """As `_LimitedRedis`: a cluster's connections to each node are limited as well."""

    def __init__(self, *arguments: Any, limit: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._gate = asyncio.Semaphore(limit)

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:
        async with self._gate:
            with _connection_closed():
                return await super().execute_command(*arguments, **options)

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:
        return _ClusterPipeline(self, transaction)  # type: ignore[abstract]


class _ClusterPipeline(ClusterPipeline):
    async def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> list[Any]:
        with _connection_closed():
            return await super().execute(raise_on_error, allow_redirections)


@contextmanager
def _connection_closed() -> Iterator[None]:
    """Turns the errors of a connection closed in mid-call into a connection error.

    In redis-py 8.1, a call can be canceled while it reads the cluster's layout, or retry a pipeline
    after a node has gone. Both close connections in use by other calls, which then have no writer.
    See `_BoundedConnection` too.
    """
    try:
        yield
    except (AttributeError, TypeError) as error:
        raise RedisConnectionError("The connection was closed under the call.") from error


def connect(url: str, timeout_s: float, max_connections: int = MAX_CONNECTIONS) -> Redis:
    """A client of the server at `url`. Sends nothing yet. No single wait takes longer than
    `timeout_s` seconds.

    `redis://` and `rediss://` name one server. `redis+sentinel://host:26379,host:26379/NAME/DB`
    names the server that the sentinels call NAME. `redis+cluster://host:6379,host:6379` names a
    cluster by some of its nodes. Raises `SettingsError`.
    """
    common: dict[str, Any] = {
        "decode_responses": True,
        "socket_connect_timeout": timeout_s,
        "health_check_interval": HEALTH_CHECK_S,
        "driver_info": DRIVER,
    }
    # A timeout is not retried: the caller's time is over, and more load does not help the server.
    retry = Retry(ExponentialBackoff(cap=0.1, base=0.02), RETRIES, supported_errors=(RedisConnectionError,))
    scheme = urlsplit(url).scheme
    if scheme == "redis+sentinel":
        return _of_sentinels(url, common | {"retry": retry}, timeout_s, max_connections)
    if scheme == "redis+cluster":
        user, password, hosts, _ = _parts(url)
        nodes = [ClusterNode(host, port) for host, port in hosts]
        cluster = _LimitedCluster(
            limit=max(1, max_connections // 4),  # the rest is for pipelines
            startup_nodes=nodes,
            # A slot that has moved is noted as such. By default redis-py reads the whole layout
            # again after five of them. That closes all connections under the calls that use them.
            reinitialize_steps=0,
            username=user,
            password=password,
            max_connections=max_connections,
            socket_timeout=timeout_s,
            **common,
        )
        return cast("Redis", cluster)  # all that we use of it is the same
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=timeout_s + QUEUE_S,
        retry=retry,
        bound_s=timeout_s,
        **common,
    )
    pool.connection_class = _TlsConnection if scheme == "rediss" else _PlainConnection
    return Redis.from_pool(pool)


async def disconnect(client: Redis) -> None:
    """Close all connections of a client, and those to its sentinels."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, SentinelConnectionPool):
        await pool.disconnect()
        await asyncio.gather(*(sentinel.aclose() for sentinel in pool.sentinel_manager.sentinels))


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
        connection_class=_SentinelConnection,
        bound_s=timeout_s,
        **common,
    )
    return _LimitedRedis(connection_pool=pool, limit=max(1, max_connections // 2))


def _parts(url: str) -> tuple[str | None, str | None, list[tuple[str, int]], str]:
    """User, password, hosts and path of a URL with several hosts. Raises `SettingsError`."""
    parts = urlsplit(url)
    credentials, _, addresses = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    hosts = []
    for address in addresses.split(","):
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise SettingsError(f"{parts.scheme}:// needs host:port, host:port ..., not {address!r}")
        hosts.append((host.strip("[]"), int(port)))
    return unquote(user) or None, unquote(password) or None, hosts, parts.path.strip("/")


@asynccontextmanager
async def store_errors(what: str, timeout_s: float) -> AsyncIterator[None]:
    """Bounds the code inside to `timeout_s` seconds in all, plus `QUEUE_S` for a free connection.

    Raises `StoreFull` if Redis has no room, and `StoreUnavailable` for every other fault of Redis.
    `what` names the store in the message.
    """
    try:
        async with asyncio.timeout(timeout_s + QUEUE_S):
            yield
    except (RedisError, OSError) as error:  # TimeoutError is an OSError
        if is_full(error):
            raise StoreFull(f"The {what} is full: Redis is at its maxmemory.") from error
        raise StoreUnavailable(f"The {what} did not answer: {type(error).__name__}.") from error


def is_full(error: BaseException) -> bool:
    """Whether Redis refused a write because it is at its `maxmemory`. Pure."""
    # Redis 6.2 wraps the error of a script's command into an error of another kind.
    return isinstance(error, OutOfMemoryError) or "OOM command not allowed" in str(error)


async def pubsub_of(client: Redis, **options: Any) -> PubSub:
    """A subscriber on a separate connection. A cluster's client reads the list of nodes first.
    Raises redis-py's errors."""
    several: Any = client
    if isinstance(several, RedisCluster):
        await several.initialize()
    return client.pubsub(**options)


def unlink(pipeline: Any, key: str) -> None:
    """Deletes the key with the pipeline, which may be that of a cluster."""
    # redis-py 8.1: `unlink` of a cluster's pipeline is a coroutine. It queues nothing unless
    # awaited, and raises if awaited.
    pipeline.execute_command("UNLINK", key)


async def pages(
    client: Redis, what: str, timeout_s: float, pattern: str, count: int
) -> AsyncIterator[list[str]]:
    """The keys that match `pattern`, page by page, from every node. `count` is SCAN's hint of the
    page size. Each page is bounded as in `store_errors`, and raises as it does."""
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

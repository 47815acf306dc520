"""A snapshot of the state Redis over a connection: every key of the platform at one moment, as
lines that can be written to any server.

The server sends its RDB file as it would to a replica (SYNC). That needs no access to its disk,
forks once, and stops no client. On a cluster each node sends its own file. All keys of a job are on
one node, so every job is whole. SCAN could see a job in two states, since it moves meanwhile.
Providers of Redis may forbid SYNC; there, an exported file takes its place.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Final

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from backends.redis_client import store_errors
from store.key_names import PREFIX
from store.packed import RdbError
from store.rdb import Entry

SILENCE_S: Final = 60.0
"""Longest wait for a byte. The server sends one each second while it prepares the file. Before that
it waits up to `repl-diskless-sync-delay`."""
CHUNK: Final = 1 << 16
MARK_BYTES: Final = 40
"""Length of the mark that ends a file of unknown length (replication.c)."""
_OURS: Final = PREFIX.encode()


class SnapshotRefused(Exception):
    """The server does not send its snapshot. The message says why, and what to do."""


def database_of(client: Redis) -> int:
    """The number of the database that the client has selected."""
    pool = getattr(client, "connection_pool", None)
    return 0 if pool is None else int(pool.connection_kwargs.get("db") or 0)


async def connections(client: Redis, timeout_s: float) -> Sequence[AbstractConnection]:
    """A connection, not yet open, to every server that holds keys. Raises `StoreUnavailable`."""
    several: Any = client
    if isinstance(several, RedisCluster):
        async with store_errors("job store", timeout_s):
            await several.initialize()
        nodes: Any = several.get_primaries()
        return [node.connection_class(**node.connection_kwargs) for node in nodes]
    pool: Any = client.connection_pool
    return [pool.make_connection()]


async def download(
    connection: Any, file: BinaryIO, timeout_s: float, on_bytes: Callable[[int], None]
) -> None:
    """Writes the server's RDB file to `file`. `on_bytes` is called with the size of each piece.
    Raises `SnapshotRefused`, `StoreUnavailable`."""
    try:
        async with store_errors("job store", timeout_s):
            await connection.connect()
            for words in (("capa", "eof"), ("rdb-only", "1")):
                await connection.send_command("REPLCONF", *words)
                try:
                    await connection.read_response()
                except ResponseError:
                    # An older server, or a user without the right. SYNC shows which.
                    continue
            await connection.send_command("SYNC")
        await _receive(_reader(connection), file, on_bytes)
    except (RedisError, OSError, EOFError) as error:  # TimeoutError is an OSError
        raise SnapshotRefused(f"Redis broke off its snapshot: {type(error).__name__}.") from error
    finally:
        await connection.disconnect(nowait=True)


def _reader(connection: Any) -> asyncio.StreamReader:
    # The bytes that follow are no reply, so they bypass redis-py's parser. It has consumed
    # everything before them.
    reader: asyncio.StreamReader = connection._reader
    return reader


async def _receive(reader: asyncio.StreamReader, file: BinaryIO, on_bytes: Callable[[int], None]) -> None:
    head = b""
    while not head:
        async with asyncio.timeout(SILENCE_S):
            head = (await reader.readuntil(b"\n")).strip()
    if head.startswith(b"-"):
        raise SnapshotRefused(_advice(head[1:].decode(errors="replace")))
    mark = head.removeprefix(b"$EOF:") if head.startswith(b"$EOF:") else b""
    if not (len(mark) == MARK_BYTES or head[1:].isdigit()):
        raise SnapshotRefused("Redis did not answer SYNC as it should.")
    bytes_left = None if mark else int(head[1:])
    tail = b""
    while bytes_left != 0:
        async with asyncio.timeout(SILENCE_S):
            piece = await reader.read(CHUNK if bytes_left is None else min(CHUNK, bytes_left))
        if not piece:
            raise EOFError
        on_bytes(len(piece))
        if bytes_left is not None:
            bytes_left -= len(piece)
            file.write(piece)
            continue
        tail += piece
        if tail.endswith(mark):
            file.write(tail.removesuffix(mark))
            return
        file.write(tail[:-MARK_BYTES])
        tail = tail[-MARK_BYTES:]


def _advice(words: str) -> str:
    if words.startswith("NOPERM"):
        return "The Redis user may not read snapshots: grant it +sync +replconf, or give an exported file (--rdb)."
    if words.startswith("ERR unknown command"):
        return "This Redis sends no snapshots (SYNC), as providers have it: export one there, and give the file (--rdb)."
    return f"Redis sends no snapshot: {words}"


def ours(entries: Iterable[Entry], database: int) -> Iterator[Entry]:
    """The entries of the platform in that database. A server may hold other keys too."""
    return (entry for entry in entries if entry.database == database and entry.key.startswith(_OURS))


def to_line(entry: Entry) -> str:
    """The entry as a line of JSON, without the line break. Bytes that are no UTF-8 become lone
    surrogates."""
    values = [value.decode("utf-8", "surrogateescape") for value in entry.values]
    line: dict[str, Any] = {
        "key": entry.key.decode("utf-8", "surrogateescape"),
        "kind": entry.kind,
        "values": values,
    }
    if entry.expires_ms is not None:
        line["expires_ms"] = entry.expires_ms
    return json.dumps(line, separators=(",", ":"))


def from_line(line: str | bytes) -> Entry:
    """The entry that `to_line` wrote. Raises `RdbError`."""
    try:
        document = json.loads(line)
        values = tuple(value.encode("utf-8", "surrogateescape") for value in document["values"])
        key = document["key"].encode("utf-8", "surrogateescape")
        kind, expires_ms = document["kind"], document.get("expires_ms")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RdbError("A line of the state is damaged.") from None
    if kind not in ("string", "list", "set", "zset", "hash") or not key.startswith(_OURS) or not values:
        raise RdbError("A line of the state is damaged.")
    if (kind == "string" and len(values) != 1) or (kind in ("zset", "hash") and len(values) % 2):
        raise RdbError("A line of the state is damaged.")
    return Entry(0, key, kind, values, expires_ms)

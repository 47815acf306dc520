"""One request of HTTP/1.1 on a bare connection: it must cost less than what is measured."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """An answer with a length, whole."""

    status: int
    head: bytes
    """In lower case."""
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def request(
    method: str, path: str, key: str = "", body: Any = None, *, close: bool = False, more: str = ""
) -> bytes:
    """The bytes of a request. `more`: further header lines. With `close` the server is asked to end the connection after its answer."""
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{more}"
    if key:
        head += f"Authorization: Bearer {key}\r\n"
    if close:
        head += "Connection: close\r\n"
    if data:
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    return head.encode() + b"\r\n" + data


async def begun(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and head (in lower case) of the answer that comes. Raises `EOFError`, `OSError`."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    return int(head[9:12]), head


async def answer(reader: asyncio.StreamReader) -> Answer:
    """The answer that comes, whole; one with a length. Raises `EOFError`, `OSError`."""
    status, head = await begun(reader)
    return Answer(status, head, await reader.readexactly(int(value_of(head, b"content-length") or 0)))


def value_of(head: bytes, name: bytes) -> bytes:
    """The value of a header; empty: there is none."""
    return head.partition(b"\r\n" + name + b":")[2].partition(b"\r\n")[0].strip()


async def exchange(port: int, message: bytes, source: str = "127.0.0.1") -> Answer:
    """The answer to `message` on a connection of its own. Raises `EOFError`, `OSError`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        writer.write(message)
        return await answer(reader)
    finally:
        writer.close()

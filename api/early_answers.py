"""Discards the body of a request that is answered before its body was read. The body is read to its
end, within bounds.

A server that answers and closes while its client still sends resets the connection. Many clients,
such as Node's fetch, then report a broken pipe instead of the answer. RFC 9112 section 9.6
describes the same danger.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.fast_route import header

MAX_DISCARDED_BYTES: Final = 16 * 1024 * 1024
"""The most bytes of a body that are read, including those that its route has read. After more, the
connection is closed."""
MAX_DISCARD_S: Final = 10.0
"""How long a body may still arrive after the begin of its request, in seconds."""


class EarlyAnswers:
    """Holds an answer back until the request's body has arrived, and discards that body.

    The answer goes out at once, and closes the connection, if the body is longer than
    `MAX_DISCARDED_BYTES`, slower than `MAX_DISCARD_S`, or if the client still waits for a `100
    Continue`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and hold its answer back as above."""
        if scope["type"] != "http" or not has_body(scope):
            await self._app(scope, receive, send)
            return
        body = _Body(scope, receive)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and not await body.discarded():
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        await self._app(scope, body.receive, answer)


class _Body:
    """The body of one request: how much of it has arrived, and whether it is complete."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._length = declared_length(scope)
        self._expects = (header(scope, b"expect") or "").lower() == "100-continue"
        self._until = asyncio.get_running_loop().time() + MAX_DISCARD_S
        self._seen = 0
        self._awaited = self._ended = self._broken = False

    async def receive(self) -> Message:
        self._awaited = True
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        if message["type"] == "http.disconnect":
            # The client has left or has sent an invalid body. This connection cannot be read any more.
            self._ended = self._broken = True
        # The server may send a last, empty part. It need not be awaited if the length is known.
        if not message.get("more_body", False) or self._seen == self._length:
            self._ended = True
        return message

    async def discarded(self) -> bool:
        """Read what is left.

        Returns whether the body has ended: only then can the connection be used again.
        """
        if self._ended:
            return self._read_whole
        too_long = self._length is not None and self._length > MAX_DISCARDED_BYTES
        # A client that waits for `100 Continue` has sent no body, and reads the answer instead.
        if too_long or (self._expects and not self._awaited):
            return False
        try:
            async with asyncio.timeout_at(self._until):
                while not self._ended and self._seen <= MAX_DISCARDED_BYTES:
                    await self.receive()
        except TimeoutError:
            return False
        return self._read_whole

    @property
    def _read_whole(self) -> bool:
        return self._ended and not self._broken


def has_body(scope: Scope) -> bool:
    """Whether the request announces a body (RFC 9112 section 6.3). Pure."""
    for name, value in scope["headers"]:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            return True
    return False


def declared_length(scope: Scope) -> int | None:
    """The `Content-Length` in bytes; None: the header is absent or not a number. Pure."""
    declared = header(scope, b"content-length") or ""
    return int(declared) if declared.isascii() and declared.isdigit() and len(declared) <= 18 else None

"""What goes to Redis and RabbitMQ, cut out of bytes: commands of RESP requests, and frames of AMQP 0-9-1. Pure.

https://redis.io/docs/latest/develop/reference/protocol-spec/ and the AMQP 0-9-1 specification, 2.3.5 and 4.2.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

METHOD: Final = 1
HEARTBEAT: Final = 8
ACK: Final = (60, 80)
"""basic.ack: from a consumer of its message, or from the broker of a publish."""
_HEAD: Final = struct.Struct(">BHI")
_PROTOCOL: Final = 8
"""Bytes of `AMQP0091`, with which a client begins."""


@dataclass
class Commands:
    """Cuts what a client sends to Redis into commands, however it is split into reads."""

    _rest: bytes = b""

    def feed(self, data: bytes) -> list[list[bytes]]:
        """The commands that are complete now, each with its arguments."""
        self._rest += data
        found = []
        while (one := _command(self._rest)) is not None:
            command, size = one
            self._rest = self._rest[size:]
            found.append(command)
        return found


def _command(data: bytes) -> tuple[list[bytes], int] | None:
    """(arguments, bytes taken) of the first one; None while it is not complete. Raises `ValueError` for what is no array."""
    end = data.find(b"\r\n")
    if end < 0:
        return None
    if not data.startswith(b"*"):
        raise ValueError(f"{data[:20]!r} is no command of RESP")
    count, place = int(data[1:end]), end + 2
    arguments = []
    for _ in range(count):
        end = data.find(b"\r\n", place)
        if end < 0:
            return None
        size, place = int(data[place + 1 : end]), end + 2
        if len(data) < place + size + 2:
            return None
        arguments.append(data[place : place + size])
        place += size + 2
    return arguments, place


@dataclass(frozen=True, slots=True)
class Frame:
    """`method` is (class, method) of a method's frame, and (0, 0) of contents."""

    kind: int
    method: tuple[int, int] = (0, 0)


@dataclass
class Frames:
    """Cuts one direction of an AMQP connection into frames; heartbeats are left out. `client`: it begins with the protocol's name."""

    client: bool
    _rest: bytes = field(default=b"")
    _begun: bool = False

    def feed(self, data: bytes) -> list[Frame]:
        self._rest += data
        if self.client and not self._begun:
            if len(self._rest) < _PROTOCOL:
                return []
            self._rest = self._rest[_PROTOCOL:]
        self._begun = True
        found = []
        while len(self._rest) >= _HEAD.size:
            kind, _, size = _HEAD.unpack_from(self._rest)
            whole = _HEAD.size + size + 1
            if len(self._rest) < whole:
                break
            method = struct.unpack_from(">HH", self._rest, _HEAD.size) if kind == METHOD else (0, 0)
            if kind != HEARTBEAT:
                found.append(Frame(kind, (method[0], method[1])))
            self._rest = self._rest[whole:]
        return found

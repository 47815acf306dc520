"""Reads an RDB file, the snapshot format of Redis and Valkey, into plain values.

The file holds every key at one moment. The values can be written to any server, whatever its
version. The file itself, like the payload of DUMP, is refused by a server that is older or of the
other project. This reader knows the forms that Redis 6.2 to 8.0 and Valkey 7.2 to 9.1 write for
strings, lists, sets, sorted sets and hashes. Values of modules, such as the vector sets of the search
index, are left out: no record is one. Anything else is an error.

Sources: rdb.h and rdb.c of those versions. The checksum at the end is not computed: in Python it
would take longer than all the rest. Lengths, kinds and the end are checked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import SEEK_END
from typing import BinaryIO, Final, Literal

from store.packed import RdbError, intset, listpack, lzf, ziplist

Kind = Literal["string", "list", "set", "zset", "hash"]

_MAGICS: Final = (b"REDIS", b"VALKEY")
_MAGIC_BYTES: Final = 9

_SLOT_IMPORT, _SLOT_INFO, _FUNCTION, _MODULE_AUX, _IDLE, _FREQ, _AUX = 243, 244, 245, 247, 248, 249, 250
_RESIZE, _EXPIRE_MS, _EXPIRE_S, _SELECT, _EOF = 251, 252, 253, 254, 255

_MODULE_VALUE: Final = 7
_PLAIN_NODE: Final = 1
_SPECIAL_SCORES: Final = {253: b"nan", 254: b"inf", 255: b"-inf"}
_PACKED: Final = {10: ziplist, 11: intset, 12: ziplist, 13: ziplist, 16: listpack, 17: listpack, 20: listpack}
_KINDS: Final[dict[int, Kind]] = {
    0: "string",
    1: "list",
    2: "set",
    3: "zset",
    4: "hash",
    5: "zset",
    10: "list",
    11: "set",
    12: "zset",
    13: "hash",
    14: "list",
    16: "hash",
    17: "zset",
    18: "list",
    20: "set",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a server. `values` holds one value for a string, and the members for a list or a
    set. It alternates member and score for a sorted set, field and value for a hash. `expires_ms`
    is Unix time in milliseconds; None: never."""

    database: int
    key: bytes
    kind: Kind
    values: tuple[bytes, ...]
    expires_ms: int | None = None


class RdbFile:
    """Iterate it for all entries of a seekable file. Iteration raises `RdbError`.

    `about` is what the server wrote about itself (`redis-ver`, `ctime`, `used-mem`). It is complete
    once the first entry was read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = 0
        self.about: dict[str, str] = {}

    def __iter__(self) -> Iterator[Entry]:
        # A damaged length must not make us allocate all memory.
        self._left = self._file.seek(0, SEEK_END)
        self._file.seek(0)
        magic = self._take(_MAGIC_BYTES)
        if not magic.startswith(_MAGICS):
            raise RdbError("This is no RDB file.")
        database, expires_ms = 0, None
        while (code := self._byte()) != _EOF:
            if code == _SELECT:
                database = self._length()
            elif code == _EXPIRE_MS:
                expires_ms = int.from_bytes(self._take(8), "little")
            elif code == _EXPIRE_S:
                expires_ms = int.from_bytes(self._take(4), "little") * 1000
            elif code == _AUX:
                name = self._string().decode(errors="replace")
                self.about[name] = self._string().decode(errors="replace")
            elif code in _KINDS:
                key = self._string()
                yield Entry(database, key, _KINDS[code], tuple(self._values(code)), expires_ms)
                expires_ms = None
            elif code == _MODULE_VALUE:
                self._string(), self._length()
                self._skip_module()
                expires_ms = None
            else:
                self._skip(code)

    def _skip(self, code: int) -> None:
        """Skips a part that holds no value of a key."""
        if code == _RESIZE:
            self._length(), self._length()
        elif code == _IDLE:
            self._length()
        elif code == _FREQ:
            self._byte()
        elif code == _FUNCTION:
            self._string()
        elif code == _SLOT_INFO:
            self._length(), self._length(), self._length()
        elif code == _SLOT_IMPORT:
            self._string()
            for _ in range(self._length()):
                self._length(), self._length()
        elif code == _MODULE_AUX:
            self._length(), self._length(), self._length()
            self._skip_module()
        else:
            raise RdbError(f"It holds something of the unknown kind {code}: a stream, or a newer server's.")

    def _skip_module(self) -> None:
        """Skips what a module wrote, behind its number."""
        while code := self._length():
            if code in (1, 2):
                self._length()
            elif code in (3, 4):
                self._take(4 * (code - 2))
            elif code == 5:
                self._string()
            else:
                raise RdbError("The part of a module is damaged.")

    def _values(self, code: int) -> Iterator[bytes]:
        if code == 0:
            yield self._string()
        elif code in _PACKED:
            yield from _PACKED[code](self._string())
        elif code == 14:
            for _ in range(self._length()):
                yield from ziplist(self._string())
        elif code == 18:
            for _ in range(self._length()):
                plain = self._length() == _PLAIN_NODE
                node = self._string()
                yield from (node,) if plain else listpack(node)
        else:
            for _ in range(self._length()):
                yield self._string()
                if code == 4:
                    yield self._string()
                elif code == 3:
                    yield self._old_score()
                elif code == 5:
                    (score,) = struct.unpack("<d", self._take(8))
                    yield repr(score).encode()

    def _old_score(self) -> bytes:
        length = self._byte()
        return _SPECIAL_SCORES.get(length) or self._take(length)

    def _length(self) -> int:
        number, special = self._length_or_form()
        if special:
            raise RdbError("A length is damaged.")
        return number

    def _length_or_form(self) -> tuple[int, bool]:
        """A length; or the number of a text's special form, and True."""
        first = self._byte()
        form, low = first >> 6, first & 0x3F
        if form == 0:
            return low, False
        if form == 1:
            return low << 8 | self._byte(), False
        if form == 3:
            return low, True
        if first in (0x80, 0x81):
            return int.from_bytes(self._take(4 if first == 0x80 else 8), "big"), False
        raise RdbError("A length is damaged.")

    def _string(self) -> bytes:
        number, special = self._length_or_form()
        if not special:
            return self._take(number)
        if number < 3:
            return b"%d" % int.from_bytes(self._take(1 << number), "little", signed=True)
        if number == 3:
            packed, length = self._length(), self._length()
            return lzf(self._take(packed), length)
        raise RdbError("A text is of an unknown form.")

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, count: int) -> bytes:
        self._left -= count
        data = self._file.read(count) if self._left >= 0 else b""
        if len(data) != count:
            raise RdbError("It ends too early.")
        return data

"""The packed forms of values in an RDB file: listpack, ziplist, intset, LZF. Pure: bytes in,
elements out.

Sources: listpack.c, ziplist.c and intset.c of Redis 7.0; lzf_d.c of liblzf 3.6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_END: Final = 0xFF
_LISTPACK_HEADER: Final = 6
_ZIPLIST_HEADER: Final = 10
_LONG_PREVIOUS: Final = 0xFE
_ZIPLIST_INTEGERS: Final = {0xC0: 2, 0xD0: 4, 0xE0: 8, 0xF0: 3, 0xFE: 1}
"""The number of bytes for each encoding."""
_LISTPACK_INTEGERS: Final = {0xF1: 2, 0xF2: 3, 0xF3: 4, 0xF4: 8}
_Element = Callable[[bytes, int], tuple[bytes, int]]
"""Reads the element at an index. Answers it and the index of the next one."""


class RdbError(Exception):
    """The snapshot is damaged, or holds something unknown to this reader. The message says
    which."""


def lzf(data: bytes, length: int) -> bytes:
    """Decompresses `data` to `length` bytes. Raises `RdbError`."""
    out, at = bytearray(), 0
    try:
        while at < len(data) and len(out) <= length:
            control = data[at]
            at += 1
            if control < 32:
                out += data[at : at + control + 1]
                at += control + 1
                continue
            size = control >> 5
            if size == 7:
                size += data[at]
                at += 1
            begin = len(out) - ((control & 0x1F) << 8) - data[at] - 1
            at += 1
            if begin < 0:
                raise RdbError("A compressed text refers to before its beginning.")
            size += 2
            # The copy may overlap itself. Then it repeats.
            repeated = out[begin : begin + size]
            while len(repeated) < size:
                repeated = repeated + repeated  # not in place: a bytearray cannot grow by itself
            out += repeated[:size]
    except IndexError:
        raise RdbError("A compressed text ends too early.") from None
    if len(out) != length:
        raise RdbError("A compressed text has not the length that it names.")
    return bytes(out)


def intset(data: bytes) -> list[bytes]:
    """The elements of a set of integers, as decimal digits. Raises `RdbError`."""
    width, count = _little(data[:4]), _little(data[4:8])
    if width not in (2, 4, 8) or len(data) != 8 + width * count:
        raise RdbError("A set of integers has not the length that it names.")
    return [_digits(data[at : at + width]) for at in range(8, len(data), width)]


def listpack(data: bytes) -> list[bytes]:
    """The elements of a listpack, integers as decimal digits. Raises `RdbError`."""
    return _checked(data, _LISTPACK_HEADER, _listpack_element, "listpack")


def ziplist(data: bytes) -> list[bytes]:
    """The elements of a ziplist, integers as decimal digits. Raises `RdbError`."""
    return _checked(data, _ZIPLIST_HEADER, _ziplist_element, "ziplist")


def _checked(data: bytes, header: int, element: _Element, what: str) -> list[bytes]:
    if len(data) <= header or _little(data[:4]) != len(data) or data[-1] != _END:
        raise RdbError(f"A {what} has not the length that it names.")
    elements, at = [], header
    try:
        while data[at] != _END:
            value, at = element(data, at)
            elements.append(value)
    except IndexError:
        raise RdbError(f"A {what} ends too early.") from None
    if at != len(data) - 1:
        raise RdbError(f"A {what} ends too early.")
    return elements


def _listpack_element(data: bytes, at: int) -> tuple[bytes, int]:
    first = data[at]
    if first < 0x80:
        value, size = b"%d" % first, 1
    elif first < 0xC0:
        value, size = _text(data, at + 1, first & 0x3F), 1 + (first & 0x3F)
    elif first < 0xE0:
        number = (first & 0x1F) << 8 | data[at + 1]
        value, size = b"%d" % (number - 0x2000 if number & 0x1000 else number), 2
    elif first < 0xF0:
        length = (first & 0x0F) << 8 | data[at + 1]
        value, size = _text(data, at + 2, length), 2 + length
    elif first == 0xF0:
        length = _little(data[at + 1 : at + 5])
        value, size = _text(data, at + 5, length), 5 + length
    elif first in _LISTPACK_INTEGERS:
        width = _LISTPACK_INTEGERS[first]
        value, size = _digits(_text(data, at + 1, width)), 1 + width
    else:
        raise RdbError(f"A listpack holds an element of the unknown kind {first:#x}.")
    return value, _after_length(data, at + size, size)


def _after_length(data: bytes, at: int, size: int) -> int:
    """The index of the next element. Each element is followed by its own size, in groups of seven
    bits, highest first."""
    for width in range(1, 6):
        groups = [size >> 7 * place & 0x7F for place in range(width - 1, -1, -1)]
        written = bytes([size >> 7 * (width - 1) & 0xFF, *(group | 0x80 for group in groups[1:])])
        if size < 1 << 7 * width and data[at : at + width] == written:
            return at + width
    raise RdbError("A listpack is damaged: the size of an element is not what follows it.")


def _ziplist_element(data: bytes, at: int) -> tuple[bytes, int]:
    at += 5 if data[at] == _LONG_PREVIOUS else 1
    first = data[at]
    if first < 0x40:
        begin, length = at + 1, first & 0x3F
    elif first < 0x80:
        begin, length = at + 2, (first & 0x3F) << 8 | data[at + 1]
    elif first == 0x80:
        begin, length = at + 5, int.from_bytes(_text(data, at + 1, 4), "big")
    elif first in _ZIPLIST_INTEGERS:
        width = _ZIPLIST_INTEGERS[first]
        return _digits(_text(data, at + 1, width)), at + 1 + width
    elif 0xF1 <= first <= 0xFD:
        return b"%d" % (first - 0xF1), at + 1
    else:
        raise RdbError(f"A ziplist holds an element of the unknown kind {first:#x}.")
    return _text(data, begin, length), begin + length


def _text(data: bytes, begin: int, length: int) -> bytes:
    if begin + length > len(data):
        raise IndexError
    return data[begin : begin + length]


def _digits(data: bytes) -> bytes:
    return b"%d" % int.from_bytes(data, "little", signed=True)


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")

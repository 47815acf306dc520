"""Forms of values that older servers write, by hand: what newer ones write is read from real ones in `test_snapshot`."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as some

from store.packed import RdbError, intset, listpack, lzf, ziplist
from store.rdb import Entry, RdbFile
from store.snapshot import from_line, to_line


def rdb(*parts: bytes) -> list[Entry]:
    return list(RdbFile(io.BytesIO(b"REDIS0009" + b"".join(parts) + b"\xff" + bytes(8))))


def text(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def packed(*elements: bytes) -> bytes:
    """A ziplist of short texts; elements that begin with a high byte are encoded already."""
    body, previous = b"", 0
    for element in elements:
        entry = bytes([previous]) + (element if element[0] >= 0xC0 else text(element))
        body, previous = body + entry, len(entry)
    size = 11 + len(body)
    return struct.pack("<IIH", size, size - 1 - previous, len(elements)) + body + b"\xff"


INTEGERS = {
    b"\xf1": b"0",
    b"\xfd": b"12",
    b"\xfe\xff": b"-1",
    b"\xc0\x00\x80": b"-32768",
    b"\xf0\xff\xff\x7f": b"8388607",
    b"\xd0\x00\x00\x00\x80": b"-2147483648",
    b"\xe0" + b"\xff" * 7 + b"\x7f": b"9223372036854775807",
}


def test_a_ziplist() -> None:
    assert ziplist(packed(b"a", *INTEGERS, b"end")) == [b"a", *INTEGERS.values(), b"end"]


def test_longer_texts_of_a_ziplist() -> None:
    long, longer = b"x" * 300, b"y" * 20_000
    body = b"\x00" + struct.pack(">H", 0x4000 | 300) + long
    body += b"\xfe" + struct.pack("<I", len(body)) + b"\x80" + struct.pack(">I", 20_000) + longer
    data = struct.pack("<IIH", 11 + len(body), 10, 2) + body + b"\xff"
    assert ziplist(data) == [long, longer]


@pytest.mark.parametrize("code", [10, 12, 13])
def test_values_in_a_ziplist(code: int) -> None:
    data = packed(b"a", b"\xf3")
    (entry,) = rdb(bytes([code]), text(b"k"), text(data))
    assert (entry.key, entry.values) == (b"k", (b"a", b"2"))


def test_a_list_of_ziplists_and_an_old_sorted_set() -> None:
    first, second = packed(b"a", b"b"), packed(b"c")
    scores = b"\x03\x01a\x031.5\x01b\xfe\x01c\xff"
    found = rdb(
        b"\xfe\x02\x0e" + text(b"list") + b"\x02" + text(first) + text(second),
        b"\xfd\x10\x00\x00\x00\x03" + text(b"zset") + scores,
    )
    assert found == [
        Entry(2, b"list", "list", (b"a", b"b", b"c")),
        Entry(2, b"zset", "zset", (b"a", b"1.5", b"b", b"inf", b"c", b"-inf"), 16_000),
    ]


def test_what_is_beside_the_keys_is_passed_over() -> None:
    module = (
        b"\xf7"
        + b"\x81"
        + bytes(8)
        + b"\x02\x00"
        + b"\x02\x07"
        + b"\x03"
        + bytes(4)
        + b"\x04"
        + bytes(8)
        + b"\x05\x01x"
        + b"\x00"
    )
    (entry,) = rdb(
        b"\xfa" + text(b"redis-ver") + text(b"7.4.0"),
        module,
        b"\xf5" + text(b"a library"),
        b"\xf4\x01\x02\x03",
        b"\xf3" + text(b"import") + b"\x01\x00\x05",
        b"\xfb\x01\x00",
        b"\xf8\x09\xf9\x05\x00" + text(b"k") + b"\xc1\x00\x80",
    )
    assert entry == Entry(0, b"k", "string", (b"-32768",))


@pytest.mark.parametrize(
    "damaged",
    [
        b"\x0f" + text(b"stream"),
        b"\x16" + text(b"hash whose fields expire"),
        b"\x00\x01k\xc3\x03\x09\x00ab",
        b"\x00\x01k\xc3\x02\x09\x20\x05",
        b"\x0b\x01k" + text(b"\x02\x00\x00\x00\x09\x00\x00\x00\x01\x00"),
        b"\x10\x01k" + text(b"\x08\x00\x00\x00\x01\x00\x05\xff"),
        b"\x00\x01k\x82",
        b"\xf6",
    ],
)
def test_what_is_damaged_or_unknown_is_refused(damaged: bytes) -> None:
    with pytest.raises(RdbError):
        rdb(damaged)


def test_a_file_of_something_else() -> None:
    with pytest.raises(RdbError, match="no RDB file"):
        list(RdbFile(io.BytesIO(b"SQLite format 3\0")))


@given(some.binary(max_size=200))
def test_no_bytes_make_a_reader_raise_anything_else(data: bytes) -> None:
    for reader in (ziplist, listpack, intset, lambda data: lzf(data, 100)):
        try:
            reader(data)
        except RdbError:
            continue
    try:
        rdb(data)
    except RdbError:
        return


@given(
    some.sampled_from(["string", "list", "set", "zset", "hash"]),
    some.binary(),
    some.lists(some.tuples(some.binary(), some.binary()), min_size=1),
    some.none() | some.integers(0, 2**45),
)
def test_a_line_holds_all_of_an_entry(
    kind: str, key: bytes, pairs: list[tuple[bytes, bytes]], expires_ms: int | None
) -> None:
    values = pairs[0][:1] if kind == "string" else tuple(value for pair in pairs for value in pair)
    entry = Entry(0, b"darkroom:" + key, kind, values, expires_ms)  # type: ignore[arg-type]
    line = to_line(entry)
    assert line.isascii()
    assert "\n" not in line
    assert from_line(line) == entry


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        '{"key":"darkroom:x","kind":"stream","values":["1"]}',
        '{"key":"x","kind":"string","values":["1"]}',
        '{"key":"darkroom:x","kind":"string","values":["1","2"]}',
        '{"key":"darkroom:x","kind":"hash","values":["1"]}',
        '{"key":"darkroom:x","kind":"list","values":[]}',
        '{"key":"darkroom:x","kind":"list","values":[1]}',
    ],
)
def test_a_line_that_is_no_entry(line: str) -> None:
    with pytest.raises(RdbError):
        from_line(line)

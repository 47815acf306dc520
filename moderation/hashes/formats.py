"""Reads lists of hashes in the formats that are exchanged. Nothing is believed: each row is checked.

Four shapes are read:

- CSV with a header, one hash a row. `threatexchange` exports `collab,signal_type,signal_str,category,tags`;
  `hash_type,hash,category,source` and similar names are read as well.
- CSV with a header that names one column for each kind: `md5,sha256,pdq`.
- CSV without a header: the hash is the first column, as in the samples of Meta's Hasher-Matcher-Actioner.
- XML of NCMEC's hash sharing API, version 2: `images/image/fingerprints`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args
from xml.etree import ElementTree

Kind = Literal["md5", "sha256", "pdq"]
"""What a hash is of: `md5` and `sha256` of a file's bytes, `pdq` of what it shows."""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
HEX_DIGITS: Final[dict[Kind, int]] = {"md5": 32, "sha256": 64, "pdq": 64}
PDQ_MIN_QUALITY: Final = 50
"""PDQ's authors call a hash of a lower quality too weak to compare (Facebook 2019, "The TMK+PDQF
Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm")."""
PDQ_ONES: Final = range(64, 193)
"""Bits that are one in the PDQ hash of a picture. It is 128 by construction; a flat picture has none or all."""
MAX_CELL_CHARS: Final = 65_536

_TYPES: Final[dict[str, Kind]] = {
    "md5": "md5",
    "hashmd5": "md5",
    "photomd5": "md5",
    "imagemd5": "md5",
    "sha256": "sha256",
    "hashsha256": "sha256",
    "photosha256": "sha256",
    "pdq": "pdq",
    "hashpdq": "pdq",
    "pdqa": "pdq",
    "photopdq": "pdq",
}
_OTHER_TYPES: Final = re.compile(
    r"sha-?1|pdna|photodna|pdqf|tmk|video|vpdq|url|text|tlsh|trend|ssvh|ocr", re.IGNORECASE
)
"""Kinds that lists carry and that say nothing about a still image's file here. Such rows are counted and left out."""
_TYPE_COLUMNS: Final = ("hash_type", "signal_type", "type", "algorithm", "indicator_type")
_VALUE_COLUMNS: Final = ("hash", "value", "signal_str", "hash_value", "signal", "indicator")
_QUALITY_COLUMNS: Final = ("quality", "pdq_quality")
_EMPTY_FILE: Final[dict[Kind, str]] = {
    "md5": "d41d8cd98f00b204e9800998ecf8427e",
    "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
}


@dataclass(frozen=True, slots=True)
class HashRow:
    """One hash of a list. `quality` is that of a PDQ hash, where the list says it."""

    line: int
    kind: Kind
    value: bytes
    quality: int | None = None


@dataclass(frozen=True, slots=True)
class OtherRow:
    """A hash of a kind that is not compared, such as PhotoDNA."""

    line: int
    kind: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used, and why."""

    line: int
    reason: str


Row = HashRow | OtherRow | BadRow


def read(path: Path, kind: Kind | None = None) -> Iterator[Row]:
    """The rows of a list. `kind`: of rows that do not say theirs.

    Raises `OSError`. A file that cannot be read as a whole ends with a `BadRow`.
    """
    if path.suffix.lower() == ".xml":
        yield from _ncmec(path)
    else:
        yield from _csv(path, kind)


def kind_named(text: str) -> Kind | None:
    """The kind that a list calls `text`; None for any other."""
    return _TYPES.get(re.sub(r"[^a-z0-9]", "", text.lower()))


def row_of(line: int, kind: Kind, text: str, quality: int | None = None) -> HashRow | BadRow:
    """The hash that `text` says in hexadecimal digits, or why it is none."""
    digits = text.strip()
    if len(digits) != HEX_DIGITS[kind]:
        return BadRow(
            line, f"a {kind} has {HEX_DIGITS[kind]} hexadecimal digits, not {len(digits)} characters"
        )
    try:
        value = bytes.fromhex(digits)
    except ValueError:
        return BadRow(line, f"a {kind} has hexadecimal digits alone")
    if digits.lower() == _EMPTY_FILE.get(kind):
        return BadRow(line, f"this is the {kind} of an empty file")
    if kind == "pdq" and int.from_bytes(value).bit_count() not in PDQ_ONES:
        return BadRow(line, "this pdq is of a picture without any detail, and would match others like it")
    return HashRow(line, kind, value, quality)


def _csv(path: Path, kind: Kind | None) -> Iterator[Row]:
    csv.field_size_limit(MAX_CELL_CHARS)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        columns: _Columns | None = None
        while True:
            try:
                cells = next(rows)
            except StopIteration:
                return
            except (csv.Error, UnicodeDecodeError) as error:
                reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"is no CSV: {error}"
                yield BadRow(rows.line_num + 1, f"the file {reason}; nothing behind this line was read")
                return
            if not any(cells):
                continue
            if columns is None:
                columns = _Columns.of(cells, kind)
                if columns is None:
                    yield BadRow(rows.line_num, "the header names no column of hashes")
                    return
                if columns.header:
                    continue
            yield from columns.rows(rows.line_num, cells)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where a file has what, by the index of the column."""

    header: bool
    kind: Kind | None
    value: int = 0
    type: int | None = None
    quality: int | None = None
    kinds: Mapping[int, str] | None = None
    """With a column for each kind: the names of their kinds. `value` is not read then."""

    @classmethod
    def of(cls, first: list[str], kind: Kind | None) -> _Columns | None:
        """By the first row of the file. None: it is a header without a column of hashes."""
        names = [cell.strip().lower() for cell in first]
        if any(re.fullmatch(r"[0-9a-f]{32,}", name) for name in names):
            return cls(header=False, kind=kind, value=0)
        at = {name: index for index, name in reversed(list(enumerate(names)))}
        quality = next((at[name] for name in _QUALITY_COLUMNS if name in at), None)
        value = next((at[name] for name in _VALUE_COLUMNS if name in at), None)
        if value is not None:
            type_ = next((at[name] for name in _TYPE_COLUMNS if name in at), None)
            return cls(header=True, kind=kind, value=value, type=type_, quality=quality)
        kinds = {i: name for i, name in enumerate(names) if kind_named(name) or _OTHER_TYPES.fullmatch(name)}
        return cls(header=True, kind=kind, quality=quality, kinds=kinds) if kinds else None

    def rows(self, line: int, cells: list[str]) -> Iterator[Row]:
        """The hashes of one row."""
        if self.kinds is not None:
            for index, name in self.kinds.items():
                if index < len(cells) and cells[index].strip():
                    yield self._row(line, name, cells[index], cells)
            return
        if self.value >= len(cells):
            yield BadRow(line, "the row is too short")
            return
        said = cells[self.type] if self.type is not None and self.type < len(cells) else ""
        yield self._row(line, said, cells[self.value], cells)

    def _row(self, line: int, said: str, text: str, cells: list[str]) -> Row:
        kind = kind_named(said) if said.strip() else self.kind or _by_length(text)
        if kind is None and not said.strip():
            return BadRow(line, "the row does not say its kind of hash, and 64 digits may be sha256 or pdq")
        if kind is None:
            other = said.strip()
            if _OTHER_TYPES.search(other):
                return OtherRow(line, other.lower()[:32])
            return BadRow(line, "its kind of hash is not known")
        quality = None
        if self.quality is not None and self.quality < len(cells) and cells[self.quality].strip():
            try:
                quality = int(cells[self.quality])
            except ValueError:
                return BadRow(line, "its quality is no whole number")
        return row_of(line, kind, text, quality)


def _by_length(text: str) -> Kind | None:
    return "md5" if len(text.strip()) == HEX_DIGITS["md5"] else None


def _ncmec(path: Path) -> Iterator[Row]:
    """The images of a page of NCMEC's API. An entry's number stands for its line."""
    entry = 0
    try:
        for _, element in ElementTree.iterparse(path):  # noqa: S314 - external entities are not resolved
            tag = element.tag.rpartition("}")[2]
            if tag == "video":
                entry += 1
                yield OtherRow(entry, "video")
            elif tag == "image":
                entry += 1
                yield from _fingerprints(entry, element)
            elif tag in ("deletedImage", "deletedVideo"):
                entry += 1
                yield OtherRow(entry, "deleted")
            else:
                continue
            element.clear()
    except ElementTree.ParseError as error:
        yield BadRow(entry + 1, f"the file is no XML: {error}; nothing behind this entry was read")


def _fingerprints(entry: int, image: ElementTree.Element) -> Iterator[Row]:
    for found in image.iter():
        if found.tag.rpartition("}")[2] != "fingerprints":
            continue
        for each in found:
            name, text = each.tag.rpartition("}")[2], each.text or ""
            kind = kind_named(name)
            yield OtherRow(entry, name.lower()[:32]) if kind is None else row_of(entry, kind, text)

"""Makes the file of a list of known images from what is exchanged: CSV, XML, or a folder of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from contracts.moderation import Category
from moderation.hashes import list_file
from moderation.hashes.exact import arrays_of
from moderation.hashes.formats import BadRow, HashRow, Kind, OtherRow, read
from moderation.hashes.list_file import Array, Header

MAX_FAULTS: Final = 1_000
"""Bad rows that are remembered. All are counted."""
STEP: Final = 50_000
"""Rows between two reports of progress."""

Progress = Callable[[int], None]
"""Told how many rows were read."""


class BadRows(ValueError):
    """Rows that cannot be used. `faults` holds the first of them, `count` says how many there are."""

    def __init__(self, origin: Path, faults: list[BadRow], count: int) -> None:
        first = "; ".join(f"line {each.line}: {each.reason}" for each in faults[:3])
        more = f", and {count - 3} more" if count > 3 else ""
        super().__init__(f"{origin} has {count} rows that cannot be used: {first}{more}")
        self.faults = faults
        self.count = count


@dataclass(slots=True)
class Collected:
    """Hashes in the making of a list: by kind, one after the other."""

    hashes: dict[Kind, bytearray] = field(
        default_factory=lambda: {kind: bytearray() for kind in ("md5", "sha256", "pdq")}
    )
    left_out: Counter[str] = field(default_factory=Counter)
    faults: list[BadRow] = field(default_factory=list)
    bad: int = 0

    def add(self, row: HashRow) -> None:
        """Take one hash."""
        self.hashes[row.kind] += row.value


def import_rows(
    source: Path,
    out: Path,
    category: Category,
    *,
    kind: Kind | None = None,
    skip_bad: bool = False,
    progress: Progress = lambda _: None,
) -> tuple[Header, Collected]:
    """Make the list `out` of a CSV or XML file. `kind`: of rows that do not say theirs.

    Raises `BadRows` and writes nothing if a row cannot be used, unless they are skipped by `skip_bad`.
    Raises `OSError`.
    """
    collected = Collected()
    for number, row in enumerate(read(source, kind), start=1):
        match row:
            case HashRow():
                collected.add(row)
            case OtherRow():
                collected.left_out[row.kind] += 1
            case BadRow():
                collected.bad += 1
                if len(collected.faults) < MAX_FAULTS:
                    collected.faults.append(row)
        if not number % STEP:
            progress(number)
    if collected.bad and not skip_bad:
        raise BadRows(source, collected.faults, collected.bad)
    return write(out, category, collected), collected


def write(out: Path, category: Category, collected: Collected) -> Header:
    """Write the list of what was collected. Raises `OSError`."""
    arrays: dict[str, Array] = {}
    for kind in ("md5", "sha256"):
        if collected.hashes[kind]:
            arrays |= arrays_of(kind, bytes(collected.hashes[kind]))
    counts = {kind: len(arrays[f"{kind}.heads"]) for kind in ("md5", "sha256") if f"{kind}.heads" in arrays}
    return list_file.write(out, Header(category=category, counts=counts), arrays)

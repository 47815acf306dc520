"""All rows by number, the mutants with the row that must catch each, and what `make test` plays of both."""

from __future__ import annotations

from typing import Final

from tests.faults.round import Row
from tests.faults.rows import ROWS
from tests.faults.rows_clock import CLOCK_ROWS
from tests.faults.rows_disk import DISK_ROWS
from tests.faults.rows_engine import ENGINE_ROWS
from tests.faults.rows_full import FULL_ROWS
from tests.faults.rows_group import GROUP_ROWS
from tests.faults.rows_held import HELD_ROWS
from tests.faults.rows_letters import LETTER_ROWS
from tests.faults.rows_long import LONG_ROWS
from tests.faults.rows_more import MORE_ROWS
from tests.faults.rows_restore import RESTORE_ROWS
from tests.faults.rows_versions import VERSION_ROWS

BY_NUMBER: Final[dict[int, Row]] = {
    row.number: row
    for row in (
        *ROWS,
        *ENGINE_ROWS,
        *MORE_ROWS,
        *DISK_ROWS,
        *CLOCK_ROWS,
        *LETTER_ROWS,
        *LONG_ROWS,
        *RESTORE_ROWS,
        *VERSION_ROWS,
        *FULL_ROWS,
        *GROUP_ROWS,
        *HELD_ROWS,
    )
}

MUTANTS: Final[dict[str, int]] = {
    "ack_first": 110,
    "no_fence": 14,
    "no_lease": 13,
    "no_mandatory": 26,
    "no_confirm": 126,
    "no_hold": 52,
}
"""Mutant to the number of its row. The system is safe in depth, so each needs the fault against which it is the last guard."""

QUICK: Final = (1, 3, 15, 45, 46, 47, 49, 50, 51, 110, 146)
QUICK_JOBS: Final = 40


def selected(ranges: str) -> list[Row]:
    """The rows of `1-12,23`. Raises `ValueError` for what is no list of numbers and ranges."""
    wanted: set[int] = set()
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        wanted |= set(range(int(first), int(last or first) + 1))
    return [row for number, row in sorted(BY_NUMBER.items()) if number in wanted]

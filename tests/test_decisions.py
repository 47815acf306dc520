"""The index of docs/adr names every record by its title, and the records' links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

DECISIONS: Final = Path(__file__).parents[1] / "docs" / "adr"
RECORDS: Final = sorted(DECISIONS.glob("[0-9]*.md"))


def test_the_index_has_one_line_for_each_record() -> None:
    lines = (DECISIONS / "README.md").read_text().splitlines()
    rows = [line.rpartition(" | ")[0] for line in lines if re.match(r"\| \d+ \|", line)]
    assert rows == [_row(record) for record in RECORDS]


def test_links_lead_to_files() -> None:
    pages = [*RECORDS, DECISIONS / "README.md"]
    links = [(page.name, link) for page in pages for link in _links(page.read_text())]
    assert [(name, link) for name, link in links if not (DECISIONS / link).exists()] == []


def _row(record: Path) -> str:
    """The line of the index, without its last cell: number, title, file."""
    heading = record.read_text().partition("\n")[0]
    match = re.fullmatch(r"# (\d+)\. (.+)", heading)
    assert match is not None, f"{record.name} begins with {heading!r}, not with `# NUMBER. TITLE`"
    assert int(match[1]) == int(record.name[:4]), record.name
    return f"| {match[1]} | [{match[2]}]({record.name})"


def _links(text: str) -> list[str]:
    """Targets inside of the repository, without their anchors."""
    return re.findall(r"\]\(((?!https?:)[^)#]+)[^)]*\)", text)

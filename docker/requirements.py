"""`python requirements.py [EXTRA ...]`: what pyproject.toml asks for, without the project itself, one requirement a line."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any


def wanted(project: dict[str, Any], extras: list[str]) -> list[str]:
    """The dependencies, and those of the extras; an extra of the project itself is looked up in turn."""
    lines = set(project["dependencies"])
    for extra in extras:
        for each in project["optional-dependencies"][extra]:
            if each.startswith("darkroom["):
                lines |= set(wanted(project, each[len("darkroom[") : -1].split(",")))
            else:
                lines.add(each)
    return sorted(lines)


if __name__ == "__main__":
    described = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    sys.stdout.write("\n".join(wanted(described, sys.argv[1:])) + "\n")

"""`python docker/licences.py`: writes docs/licences.md, the licence of every package that an image may hold, as the package itself names it.

It reads the packages that are installed here: what is wanted comes from pyproject.toml, and what those want from their metadata.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageMetadata, metadata, requires
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "licences.md"
BEGIN: Final = "<!-- licences -->\n"
END: Final = "<!-- /licences -->\n"
EXTRAS: Final = "webhooks,worker,embedded,tracing,s3"
"""What images and a laptop may have. `gpu` adds packages that only a machine with CUDA can install."""
ACCEPTED: Final = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "CNRI-Python",
        "ISC",
        "MIT",
        "MIT-CMU",
        "MPL-2.0",
        "PSF-2.0",
        "Zlib",
        "Apache-2.0 WITH LLVM-exception",
    }
)
"""Licences under which an image may carry a package unchanged; any other is for a person to judge."""
# What packages call their licence where they give no SPDX expression (https://peps.python.org/pep-0639/).
_OLD_NAMES: Final = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "New BSD": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "Dual License": "Apache-2.0 OR BSD-3-Clause",
    "ISC License": "ISC",
    "MIT License": "MIT",
}


def installed(wanted: Iterable[str]) -> dict[str, str]:
    """The licence of each package by its name: of the requirements, and of all that they require. Raises `PackageNotFoundError`."""
    found: dict[str, str] = {}
    waiting = [(Requirement(each), frozenset[str]()) for each in wanted]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement, asked = waiting.pop()
        if requirement.marker and not any(
            requirement.marker.evaluate({"extra": extra}) for extra in asked or {""}
        ):
            continue
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        if name != "darkroom":
            found[name] = licence(metadata(name))
        waiting += [(Requirement(each), extras) for each in requires(name) or []]
    return dict(sorted(found.items()))


def licence(of: PackageMetadata) -> str:
    """An SPDX expression where the package gives one, or a short name; empty where it gives neither."""
    for expression in of.get_all("License-Expression") or []:
        return str(expression)
    name = "".join(of.get_all("License") or []).strip()
    if not name or "\n" in name:
        classified = [each for each in of.get_all("Classifier") or [] if each.startswith("License ::")]
        name = classified[0].rpartition(" :: ")[2] if classified else ""
    return _OLD_NAMES.get(name, name)


def table(licences: dict[str, str]) -> str:
    rows = [f"| {name} | {each} |" for name, each in licences.items()]
    return "\n".join(["| package | licence |", "|---|---|", *rows]) + "\n"


def page(text: str, licences: dict[str, str]) -> str:
    """The page with this table."""
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return before + BEGIN + table(licences) + END + after


def ours() -> dict[str, str]:
    """The licences of all that the project asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return installed([f"{project['name']}[{EXTRAS}]"])


def strange(licences: dict[str, str]) -> dict[str, str]:
    """Packages under licences that are not accepted, or under none."""
    return {name: each for name, each in licences.items() if not parts(each) <= ACCEPTED}


def parts(expression: str) -> set[str]:
    """The licences in an SPDX expression."""
    return {each.strip("() ") for each in re.split(r" AND | OR ", expression)}


if __name__ == "__main__":
    found = ours()
    PAGE.write_text(page(PAGE.read_text(), found))
    sys.stdout.write(f"wrote {PAGE}\n")
    for name, each in strange(found).items():
        sys.stdout.write(f"{name}: {each or 'no licence'}: is it acceptable?\n")

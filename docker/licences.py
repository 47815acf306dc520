"""`python docker/licences.py`: writes docs/licences.md, the licence of every package that an image may hold, as the package itself names it.

What is wanted comes from pyproject.toml and from the locks. The packages that are installed here tell their licence themselves;
those that are not, such as CUDA's, are asked for at the package index, which gives their metadata without the files.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from email.message import Message
from importlib.metadata import PackageMetadata, metadata, requires
from pathlib import Path
from typing import Any, Final

import lock
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "licences.md"
BEGIN: Final = "<!-- licences -->\n"
END: Final = "<!-- /licences -->\n"
EXTRAS: Final = "webhooks,worker,search,moderation,embedded,tracing,s3"
"""What a laptop may have, and all that images have besides CUDA's packages."""
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
PIP: Final = "pip==26.3"
"""An older one, such as Python brings, does not report a licence that is an SPDX expression."""
NVIDIA: Final = "LicenseRef-NVIDIA-Proprietary"
"""Accepted for CUDA's libraries alone, which the `cuda` image has."""
_NVIDIAS: Final = re.compile(r"(nvidia|cuda)-.+")
# What packages call their licence where they give no SPDX expression (https://peps.python.org/pep-0639/).
_OLD_NAMES: Final = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "BSD-3-Clause and Public-Domain": "BSD-3-Clause",  # some files have no owner
    "New BSD": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "Dual License": "Apache-2.0 OR BSD-3-Clause",
    "ISC License": "ISC",
    "MIT License": "MIT",
    "NVIDIA Proprietary Software": NVIDIA,
}
_UNNAMED: Final = {"cuda-toolkit": NVIDIA}
"""Packages whose metadata name no licence. cuda-toolkit has no files: it names the packages of one CUDA release."""


def installed(wanted: Iterable[str]) -> dict[str, str]:
    """The licence of each package by its name: of the requirements, and of all that they require. Raises `PackageNotFoundError`."""
    found: dict[str, str] = {}
    waiting = [(Requirement(each), frozenset[str]()) for each in wanted]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement, wanted_extras = waiting.pop()
        if requirement.marker and not any(
            requirement.marker.evaluate({"extra": extra}) for extra in wanted_extras or {""}
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


def elsewhere(packages: dict[str, lock.Locked]) -> dict[str, str]:
    """The licences of packages for the images' platform, from the package index. Raises `CalledProcessError`."""
    # pip takes each platform literally, and a file for an older glibc serves too.
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(5, 29)] + ["manylinux2014_x86_64"]
    command = [
        sys.executable,
        "-m",
        "uv",
        "tool",
        "run",
        "--quiet",
        "--no-config",
        "--python",
        sys.executable,
    ]
    command += ["--from", PIP, "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--no-deps", "--only-binary", ":all:", "--target", "unused", "--report", "-"]
    command += ["--python-version", lock.python_version(), *(f"--platform={each}" for each in platforms)]
    command += [f"{name}=={each.version}" for name, each in packages.items()]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return {
        canonicalize_name(each["metadata"]["name"]): licence(message(each["metadata"]))
        for each in report["install"]
    }


def message(described: dict[str, Any]) -> Message:
    """Core metadata as pip reports it (https://packaging.python.org/en/latest/specifications/core-metadata/), as mail headers."""
    headers = Message()
    for field, header in {
        "license_expression": "License-Expression",
        "license": "License",
        "classifier": "Classifier",
    }.items():
        value = described.get(field) or []
        for each in value if isinstance(value, list) else [value]:
            headers[header] = each
    return headers


def licence(of: PackageMetadata | Message) -> str:
    """An SPDX expression where the package gives one, or a short name; empty where it gives neither."""
    for expression in of.get_all("License-Expression") or []:
        return str(expression)
    name = "".join(of.get_all("License") or []).strip()
    if not name or "\n" in name:
        classified = [each for each in of.get_all("Classifier") or [] if each.startswith("License ::")]
        name = classified[0].rpartition(" :: ")[2] if classified else ""
    return _OLD_NAMES.get(name, name)


def table(licences: dict[str, str]) -> str:
    """The packages and their licences as a Markdown table."""
    rows = [f"| {name} | {each} |" for name, each in licences.items()]
    return "\n".join(["| package | licence |", "|---|---|", *rows]) + "\n"


def page(text: str, licences: dict[str, str]) -> str:
    """The page with this table, in the order of names."""
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return before + BEGIN + table(dict(sorted(licences.items()))) + END + after


def rows(text: str) -> dict[str, str]:
    """The table of the page."""
    return dict(re.findall(r"^\| (\S+) \| (.*) \|$", text.split(BEGIN)[1].split(END)[0], re.MULTILINE)[1:])


def ours() -> dict[str, str]:
    """The licences of what the project asks for and is installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return installed([f"{project['name']}[{EXTRAS}]"])


def strange(licences: dict[str, str]) -> dict[str, str]:
    """Packages under licences that are not accepted, or under none."""
    return {
        name: each
        for name, each in licences.items()
        if not parts(each) <= ACCEPTED and not (each == NVIDIA and _NVIDIAS.fullmatch(name))
    }


def parts(expression: str) -> set[str]:
    """The licences in an SPDX expression."""
    return {each.strip("() ") for each in re.split(r" AND | OR ", expression)}


if __name__ == "__main__":
    found = ours()
    missing = {name: each for name, each in lock.every().items() if name not in found}
    if missing:
        found |= elsewhere(missing) | {name: _UNNAMED[name] for name in missing if name in _UNNAMED}
    PAGE.write_text(page(PAGE.read_text(), found))
    sys.stdout.write(f"wrote {PAGE}\n")
    for name, each in strange(found).items():
        sys.stdout.write(f"{name}: {each or 'no licence'}: is it acceptable?\n")

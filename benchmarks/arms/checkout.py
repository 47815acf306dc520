"""A revision of this repository that can be run: a checkout and an environment of its own, made once under `.cache/generations`.

The environment is a bare venv that sees the packages of the running one behind its own, and holds whatever the revision's
`constraints.txt` pins otherwise. So each revision runs with exactly the versions that it pins, both share the files of those
that are equal (the same build of torch, hiredis and granian: what is compared is this repository's code), and it costs
megabytes instead of gigabytes. This checkout's own packages are not seen from there: its editable install is a `.pth` file, and
those are not followed through another one.
"""

from __future__ import annotations

import io
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import rmtree
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.report import ROOT

FOLDER: Final = ROOT / ".cache" / "generations"
INSTALL_S: Final = 1800.0
_EXTRAS: Final = ("worker", "embedded")
"""What the processes that are started here need besides the project's own dependencies."""


class Unavailable(Exception):
    """A revision cannot be had; the message says why."""


@dataclass(frozen=True, slots=True)
class Tree:
    """What is run: a checkout, the interpreter of its environment, and the packages in which that differs from ours."""

    revision: str
    folder: Path
    python: Path
    own_packages: tuple[str, ...] = ()


def here() -> Tree:
    """This checkout as it is, with the running interpreter."""
    return Tree("this tree", ROOT, Path(sys.executable))


def tree_of(revision: str) -> Tree:
    """The checkout of a commit, made first if need be. Raises `Unavailable`."""
    try:
        commit = _run(["git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]).decode().strip()
    except Unavailable:
        raise Unavailable(
            f"This clone has no revision {revision}; a shallow one is completed by: git fetch --unshallow"
        ) from None
    home = FOLDER / commit[:12]
    tree, python, stamp = home / "tree", home / "venv" / "bin" / "python", home / "made-of"
    if not tree.exists():
        print(f"Checking {revision} out into {home.relative_to(ROOT)} ...", file=sys.stderr)
        _unpack(_run(["git", "archive", "--format=tar", commit]), tree)
    pins = differing((tree / "constraints.txt").read_text(), (tree / "pyproject.toml").read_text())
    wanted = "\n".join([sys.version, sys.prefix, *pins]) + "\n"
    if not stamp.exists() or stamp.read_text() != wanted:
        _make_environment(home / "venv", pins)
        stamp.write_text(wanted)
    return Tree(commit[:7], tree, python, tuple(pins))


def differing(constraints: str, project: str) -> list[str]:
    """The pins of a `constraints.txt` that this environment holds in another version, and those that it does not hold and the
    `pyproject.toml` of the revision names for its services. All other pins are of what other machines or its tests need."""
    wanted = tomllib.loads(project)["project"]
    extras = wanted.get("optional-dependencies", {})
    named = [*wanted["dependencies"], *(each for name in _EXTRAS for each in extras.get(name, ()))]
    needed = {canonicalize_name(Requirement(each).name) for each in named}
    pins = [line.strip() for line in constraints.splitlines() if "==" in line and not line.startswith("#")]
    found = []
    for pin in pins:
        name, _, version_there = pin.partition("==")
        version_here = _installed(name)
        if version_here != version_there and (version_here or canonicalize_name(name) in needed):
            found.append(pin)
    return found


def _installed(package: str) -> str | None:
    try:
        return version(package).partition("+")[0]  # a build of torch names its device there
    except PackageNotFoundError:
        return None


def _make_environment(folder: Path, pins: list[str]) -> None:
    _run([sys.executable, "-m", "venv", "--without-pip", "--clear", str(folder)])
    python = folder / "bin" / "python"
    purelib = _run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
    shared = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (Path(purelib.decode().strip()) / "shared.pth").write_text("\n".join(shared) + "\n")
    if pins:
        print(f"Installing what differs: {', '.join(pins)} ...", file=sys.stderr)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
        _run([*pip, "install", "--quiet", "--no-deps", *pins])


def _unpack(archive: bytes, folder: Path) -> None:
    partial = folder.with_name("partial")
    rmtree(partial, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(partial, filter="data")
    partial.rename(folder)


def _run(command: list[str]) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=INSTALL_S, cwd=ROOT)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{' '.join(command[:3])} took more than {INSTALL_S:g} s.") from None
    if done.returncode:
        raise Unavailable(" ".join((done.stderr or done.stdout).decode(errors="replace").split())[-400:])
    return done.stdout

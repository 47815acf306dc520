"""`python docker/lock.py`: writes docker/locks/, the packages of the images with the hashes of their files.

pyproject.toml says what is wanted, constraints.txt which versions, and the package index which files have which hashes. There is
one lock for each extra. `darkroom` is what every image has, `torch-cuda` is torch as the package index has it, with CUDA's
libraries, and `build` is what builds our own wheel. An image installs its locks with `--require-hashes --no-deps`.

PyTorch's CPU builds are on an index of PyTorch's own, under the same version and other hashes. They are in no lock: see "Images"
in docs/operations.md.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
LOCKS: Final = ROOT / "docker" / "locks"
HEAD: Final = "# `make lock` writes this file.\n"
BASE: Final = "darkroom"
EXTRAS: Final = ("webhooks", "tracing", "s3", "worker", "search", "c2pa", "oidc", "moderation")
"""Extras that an image may have besides `gpu`. Their locks leave out what is in the base. `search` and `moderation` come with `worker`, and
leave out what is there."""
PLATFORM: Final = "x86_64-manylinux_2_28"
"""Decides which packages are wanted. Their hashes are those of all platforms."""
IMAGES: Final = {
    "api": ("api.Dockerfile", ()),
    "worker-cpu": ("worker.Dockerfile", ()),
    "worker-cuda": ("worker.Dockerfile", ("torch-cuda", "gpu")),
}
"""The Dockerfile of each image, and the locks that it has besides those of its extras."""
_CUDA: Final = re.compile(r"torch|triton|cuda-.+|nvidia-.+")
"""torch as the package index has it, and what it wants that its CPU build does not."""
_PIN: Final = re.compile(r"([a-z0-9-]+)==(\S+)")
_HASH: Final = re.compile(r"--hash=(sha256:[0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Locked:
    """The version of one package, and the hashes of the files that it may come from, as `sha256:...`."""

    version: str
    hashes: tuple[str, ...] = ()


def wanted(project: dict[str, Any], extras: Iterable[str]) -> list[str]:
    """The project's dependencies, and those of the extras; an extra of the project itself is looked up in turn."""
    lines = set(project["dependencies"])
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            if line.startswith("darkroom["):
                lines |= set(wanted(project, line[len("darkroom[") : -1].split(",")))
            else:
                lines.add(line)
    return sorted(lines)


def parse(text: str) -> dict[str, Locked]:
    """The packages of a lock. Raises `ValueError` for a requirement that is not pinned by `==` alone."""
    locked = {}
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        if not line or line.startswith("#"):
            continue
        requirement, *options = line.split(" ")
        pin = _PIN.fullmatch(requirement)
        hashes = [_HASH.fullmatch(option) for option in options]
        if pin is None or not all(hashes):
            raise ValueError(f"{line!r} is no pinned package with hashes")
        locked[pin[1]] = Locked(pin[2], tuple(each[1] for each in hashes if each))
    return locked


def render(locked: dict[str, Locked]) -> str:
    """The text of a lock."""
    return HEAD + "".join(
        " \\\n    ".join([f"{name}=={each.version}", *(f"--hash={digest}" for digest in each.hashes)]) + "\n"
        for name, each in sorted(locked.items())
    )


def read(name: str) -> dict[str, Locked]:
    """The packages of a lock in docker/locks/ by their normalised names."""
    return parse((LOCKS / f"{name}.txt").read_text())


def every() -> dict[str, Locked]:
    """The packages of all locks."""
    return {name: each for path in sorted(LOCKS.glob("*.txt")) for name, each in read(path.stem).items()}


def constraints() -> dict[str, str]:
    """The versions of constraints.txt by normalised names."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = (line.split("==") for line in lines if not line.startswith("#"))
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins}


def image(name: str, more: Iterable[str] = ()) -> dict[str, Locked]:
    """The packages of an image as its Dockerfile makes it, with those of `more` extras. torch's CPU build has no hashes."""
    dockerfile, locks = IMAGES[name]
    text = (ROOT / "docker" / dockerfile).read_text()
    (extras,) = re.findall('^ARG EXTRAS="(.+)"$', text, re.MULTILINE)
    packages = {}
    for lock in (BASE, *extras.split(), *more, *locks):
        packages |= read(lock)
    if name == "worker-cpu":
        packages["torch"] = Locked(constraints()["torch"])
    return packages


def python_version() -> str:
    """The Python of the images, such as 3.13."""
    text = (ROOT / "docker" / "api.Dockerfile").read_text()
    (version,) = re.findall(r"^ARG PYTHON_IMAGE=python:(\d+\.\d+)", text, re.MULTILINE)
    return str(version)


def resolve(requirements: Iterable[str]) -> dict[str, Locked]:
    """All packages that the requirements lead to, with their hashes. Raises `CalledProcessError` where uv finds no solution."""
    command = ["-m", "uv", "pip", "compile", "-", "--quiet", "--no-config", "--no-python-downloads"]
    command += ["--generate-hashes", "--no-annotate", "--no-header", "--only-binary", ":all:"]
    command += ["--python-version", python_version(), "--python-platform", PLATFORM]
    command += ["--constraint", str(ROOT / "constraints.txt")]
    text = "\n".join(requirements)
    return parse(
        subprocess.run(
            [sys.executable, *command], input=text, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
    )


def without(locked: dict[str, Locked], *others: dict[str, Locked]) -> dict[str, Locked]:
    """The packages that none of `others` locks."""
    return {name: each for name, each in locked.items() if not any(name in other for other in others)}


def locks() -> dict[str, dict[str, Locked]]:
    """All locks by name, as the package index has them now."""
    described = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = described["project"]
    base = resolve(wanted(project, ()))
    found = {BASE: base, "build": resolve(described["build-system"]["requires"])}
    for extra in EXTRAS:
        found[extra] = without(resolve(wanted(project, (extra,))), base)
    cuda = {name: each for name, each in found["worker"].items() if _CUDA.fullmatch(name)}
    found["worker"] = without(found["worker"], cuda)
    for extra in ("search", "moderation"):
        found[extra] = without(found[extra], found["worker"])
    gpu = without(resolve(wanted(project, ("gpu",))), base, found["worker"], cuda)
    return {**found, "torch-cuda": cuda, "gpu": gpu}


if __name__ == "__main__":
    LOCKS.mkdir(exist_ok=True)
    for name, locked in locks().items():
        (LOCKS / f"{name}.txt").write_text(render(locked))
        sys.stdout.write(f"docker/locks/{name}.txt: {len(locked)} packages\n")

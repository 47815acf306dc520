"""The Python that the images run, with all that the suites without torch need, in an environment of its own."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

from tests.newer.suites import CACHE, ROOT, NotProvided, inside

TORCH: Final = {"accelerate", "diffusers", "peft", "torch"}
"""What is torch, or needs it. transformers does not: its tokenizers are used without."""
IMAGE: Final = re.compile(r"^ARG PYTHON_IMAGE=python:(\d+\.\d+)-", re.MULTILINE)


def image_version() -> str:
    """The Python of the images, such as 3.13. Raises `NotProvided` where they do not agree."""
    found = {
        version
        for path in sorted((ROOT / "docker").glob("*.Dockerfile"))
        for version in IMAGE.findall(path.read_text())
    }
    if len(found) != 1:
        raise NotProvided(f"The images run {' and '.join(sorted(found)) or 'no'} Python: one is tested.")
    return str(found.pop())


def without_torch(project: dict[str, Any], extra: str = "dev") -> list[str]:
    """The project's dependencies with those of the extra, and of the extras that it names in turn."""
    wanted, open_extras, seen = set(project["dependencies"]), [extra], set[str]()
    while open_extras:
        name = open_extras.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in project["optional-dependencies"][name]:
            if nested := re.fullmatch(r"darkroom\[(.+)\]", line):
                open_extras += nested[1].split(",")
            else:
                wanted.add(line)
    return sorted(line for line in wanted if re.split(r"[^\w-]", line)[0] not in TORCH)


def provide_python(root: Path) -> Path:
    """The interpreter of an environment made with the Python of the suite in `root`. Raises `NotProvided`."""
    version, folder = image_version(), CACHE / "python"
    python = folder / "bin" / "python"
    if not (root / "usr/bin" / f"python{version}").exists():
        raise NotProvided(
            f"The images run Python {version}, and the Debian suite in {root} does not have it."
        )
    pins = (ROOT / "constraints.txt").read_text()
    wanted = without_torch(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])
    mark, state = folder / "installed", hashlib.sha256(repr((version, pins, wanted)).encode()).hexdigest()
    if mark.exists() and mark.read_text() == state:
        return python
    sys.stderr.write(f"Installing for Python {version} into {folder} ...\n")
    _run(inside(root, f"/usr/bin/python{version}", "-m", "venv", "--clear", str(folder)))
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run(inside(root, *pip, "--constraint", str(ROOT / "constraints.txt"), *wanted))
    # The project itself: its processes ask for their version.
    _run(inside(root, *pip, "--no-deps", "--editable", str(ROOT)))
    mark.write_text(state)
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, env=environ(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotProvided(f"{' '.join(command)}:\n{(done.stdout + done.stderr)[-2000:]}")


def environ(**more: str) -> dict[str, str]:
    """This process' environment for a Python of another suite: nothing of its own Python's."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    return {**kept, **more}

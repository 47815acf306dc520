#!/usr/bin/env bash
# Most would guess: with PyTorch's CPU index as an extra index pip takes the CPU build, and refuses it where a lock has the hashes of
# PyPI's CUDA build. Without hashes it does take `2.13.0+cpu`, which is newer than `2.13.0`.
# What happens: pip 26.3 drops the files whose hash, as the index tells it, is not in the lock, before it looks at versions. It takes the
# CUDA build, gigabytes larger, and says nothing. `--index-url` with the CPU index alone is what gets an error.
# What follows: builds of torch need locks of their own, and an index that is the only one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pip==26.3
cat > "$folder/show.py" <<'PYTHON'
"""Two indexes with one package each, in place of PyPI and PyTorch's: the files are small, the pages are as those have them."""

import hashlib
import re
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(sys.argv[1])


def index(name: str, release: str) -> tuple[str, str]:
    """The URL of an index that has one file of `torchlike`, and the hash of the file."""
    folder = FOLDER / name / "torchlike"
    folder.mkdir(parents=True)
    file, described = folder / f"torchlike-{release}-py3-none-any.whl", f"torchlike-{release}.dist-info"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr(f"{described}/METADATA", f"Metadata-Version: 2.1\nName: torchlike\nVersion: {release}\n")
        wheel.writestr(f"{described}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{described}/RECORD", "")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    link = f'<a href="{file.name.replace("+", "%2B")}#sha256={digest}">{file.name}</a>'
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{link}</body></html>")
    return (FOLDER / name).as_uri(), digest


def taken(line: str, *indexes: str) -> str:
    """What pip would install for a line of a requirements file, or `refused`."""
    (FOLDER / "requirements.txt").write_text(line + "\n")
    command = [sys.executable, "-m", "pip", "--isolated", "install", "--dry-run", "--no-deps", "--no-cache-dir"]
    command += ["--requirement", str(FOLDER / "requirements.txt"), *indexes]
    done = subprocess.run(command, capture_output=True, text=True)
    if "DO NOT MATCH THE HASHES" in done.stderr:
        return "refused"
    (found,) = re.findall(r"^Would install torchlike-(\S+)$", done.stdout, re.MULTILINE)
    return found


(pypi, digest), (cpu, _) = index("pypi", "2.13.0"), index("cpu", "2.13.0+cpu")
both = ("--index-url", pypi, "--extra-index-url", cpu)
locked = f"torchlike==2.13.0 --hash=sha256:{digest}"
seen = taken("torchlike==2.13.0", *both), taken(locked, *both), taken(locked, "--index-url", cpu)
print(f"pip {version('pip')}")
print(f"both indexes, no hash: {seen[0]}; both, PyPI's hash: {seen[1]}; the CPU index alone, PyPI's hash: {seen[2]}")
if seen != ("2.13.0+cpu", "2.13.0", "refused"):
    sys.exit("CHANGED: the hash no longer chooses the build")
PYTHON
"$folder/venv/bin/python" "$folder/show.py" "$folder"

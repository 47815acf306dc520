"""An isolated environment for each peer: made once under `.cache/peers`, with the interpreter and the model libraries of ours."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks.report import ROOT

FOLDER: Final = ROOT / ".cache" / "peers"
INSTALL_S: Final = 1800.0

MODEL: Final = (
    "torch",
    "accelerate",
    "diffusers",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
)
"""What draws and encodes: of the same version everywhere. All else is the peer's own choice."""

ENGINE: Final = ("isal", "prometheus-client", "psutil", "pydantic", "structlog")
"""What our engine imports besides."""

PEERS: Final = {
    "litserve": ("litserve",),
    "ray": ("ray[serve]",),
    "bentoml": ("bentoml",),
    "mosec": ("mosec",),
    "celery": ("celery-batches", "celery[redis]", "fastapi", "uvicorn[standard]"),
}
"""The packages of each peer, the newest that the index has."""


class NotInstalled(Exception):
    """A peer's environment cannot be made; the message says why."""


def python_of(peer: str) -> Path:
    """The interpreter of the peer's environment, made first if need be. Raises `NotInstalled`."""
    folder = FOLDER / peer
    python = folder / "bin" / "python"
    pins = [f"{name}=={version(name).partition('+')[0]}" for name in MODEL]
    wanted = "\n".join([sys.version, *pins, *ENGINE, *PEERS[peer]])
    stamp = folder / "made-of"
    if stamp.exists() and stamp.read_text() == _digest(wanted):
        return python
    print(f"Installing {peer} into {folder.relative_to(ROOT)} ...", file=sys.stderr)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pins) + "\n")
    install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    # torch before the rest, so that no peer chooses another build of it.
    for packages in (pins[:1], [*pins, *ENGINE, *PEERS[peer]]):
        _run([*install, "--constraint", str(constraints), *packages])
    found = _run([str(python), "-c", "import torch; print(torch.__version__)"]).strip()
    if found != version("torch"):
        raise NotInstalled(f"torch {found} came with it, but {version('torch')} is what it is compared with.")
    stamp.write_text(_digest(wanted))
    return python


def version_of(peer: str) -> str:
    """The peer's installed version."""
    package = PEERS[peer][0].partition("[")[0]
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return _run([str(FOLDER / peer / "bin" / "python"), "-c", code]).strip()


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"{command[0]} took more than {INSTALL_S:g} s.") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise NotInstalled(" ".join(lines[-3:])[-400:])
    return done.stdout


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

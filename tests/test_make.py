"""`make` says what it is about to download, and how long that took."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("extra", ["embedded", "dev"])
def test_an_installation_is_shown(tmp_path: Path, extra: str) -> None:
    """With a pip that prints its arguments, in an environment that is there."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    goal = tmp_path / f".{extra}"
    command = ["make", "--no-print-directory", f"VENV={tmp_path}", "PIP=echo pip", str(goal)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    first, pip, last = said.splitlines()
    assert "GB of downloads with PyTorch's CPU build" in first
    assert pip == f"pip install --constraint constraints.txt --editable .[{extra}]", "which shows each file"
    assert last.startswith("Installed in ")
    assert str(tmp_path) in last
    assert goal.exists()


def test_an_installation_that_fails_is_not_taken_for_done(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    goal = tmp_path / ".embedded"
    done = subprocess.run(
        ["make", f"VENV={tmp_path}", "PIP=false", str(goal)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Installed" not in done.stdout
    assert not goal.exists()

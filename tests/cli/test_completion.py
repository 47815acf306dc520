"""Shells complete commands, options, values, and the options of the scripts behind `bench` and `plan`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
ENVIRON = {
    **os.environ,
    "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
}
CASES = [
    ("jo", {"jobs"}),
    ("search ", {"find", "add", "remove", "rebuild"}),
    ("keys ", {"new", "create", "list", "revoke"}),
    ("generate --init", {"--init-image"}),
    ("generate --format ", {"png", "jpeg", "webp"}),
    ("jobs list --ser", {"--server"}),
    ("bench --find", {"--find-capacity"}),
    ("plan --users-", set()),
    ("plan --user", {"--users"}),
]


def run(command: list[str], **environ: str) -> str:
    done = subprocess.run(
        command, env={**ENVIRON, **environ}, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(("typed", "offered"), CASES)
def test_bash_completes(typed: str, offered: set[str]) -> None:
    words = ["darkroom", *typed.split(" ")]
    script = f"""
        eval "$(_DARKROOM_COMPLETE=source_bash darkroom)"
        COMP_WORDS=({" ".join(word or "''" for word in words)}); COMP_CWORD={len(words) - 1}
        _darkroom_completion darkroom
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert set(run(["bash", "-c", script]).split()) == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
@pytest.mark.parametrize(("typed", "offered"), CASES[:6])
def test_other_shells_are_answered_as_their_scripts_ask(shell: str, typed: str, offered: set[str]) -> None:
    script = run(["darkroom"], _DARKROOM_COMPLETE=f"source_{shell}")
    assert f"complete_{shell}" in script
    said = run(
        ["darkroom"],
        _DARKROOM_COMPLETE=f"complete_{shell}",
        _TYPER_COMPLETE_ARGS=f"darkroom {typed}",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    assert all(word in said for word in offered)
    assert "tenant" not in said


def test_an_old_name_is_not_offered() -> None:
    assert run(
        ["darkroom"], _DARKROOM_COMPLETE="complete_bash", COMP_WORDS="darkroom models --", COMP_CWORD="2"
    ).split() == ["--json", "--server", "--api-key", "--help"]

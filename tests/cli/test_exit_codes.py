"""What the exit codes of the command mean is documented, and they mean it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cli.services import process
from contracts import exit_codes

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.Popen[str]:
    """A command, with no Redis where its settings say."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    environ["DARKROOM_REDIS_URL"] = f"redis://127.0.0.1:{process.free_port()}/0"
    return subprocess.Popen(
        [sys.executable, "-m", "cli.main", *arguments],
        env={**environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_the_table_in_the_docs_is_the_codes() -> None:
    text = (ROOT / "docs" / "command.md").read_text().partition("## Exit codes")[2]
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == exit_codes.COMMAND


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("version",), exit_codes.ENDED),
        (("models", "--server", "http://127.0.0.1:{port}"), exit_codes.FAILED),
        (("models", "--server", "nonsense"), exit_codes.UNUSABLE),
        (("cache", "purge"), exit_codes.UNUSABLE),
        (("audit",), exit_codes.UNUSABLE),
    ],
)
def test_a_command_ends_with_the_code_that_is_documented(arguments: tuple[str, ...], code: int) -> None:
    given = [each.format(port=process.free_port()) for each in arguments]
    with run(*given) as command:
        _, said = command.communicate(timeout=100)
    assert command.returncode == code, said
    assert "Traceback" not in said
    assert bool(said.strip()) is (code != exit_codes.ENDED)


@pytest.mark.slow
def test_ctrl_c_is_told_by_the_code() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(100)
        with run("jobs", "list", "--server", f"http://127.0.0.1:{silent.getsockname()[1]}") as command:
            connection, _ = silent.accept()
            with connection:
                connection.settimeout(100)
                assert connection.recv(1), "it waits for an answer now"
                command.send_signal(signal.SIGINT)
                _, said = command.communicate(timeout=100)
    assert command.returncode == exit_codes.INTERRUPTED
    assert "Traceback" not in said

"""What becomes of a process that ends by itself: started again where that may help, told at once where it does not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.children import MAX_RESTARTS, Child, Unusable
from cli.devices import WorkerGroup
from cli.services.process import ServiceError

Make = Callable[[str], Child]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A child that runs the lines of a program."""

    def made(program: str) -> Child:
        (tmp_path / "program.py").write_text(program)
        environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return Child("worker-1", "program", tmp_path / "worker-1", environ)

    return made


def ended(child: Child) -> None:
    assert child.process is not None
    child.process.wait(20)


def test_what_may_pass_is_tried_again_and_not_for_ever(make: Make) -> None:
    child = make("print('the reason'); raise SystemExit(1)")
    said: list[str] = []
    child.start()
    for _ in range(MAX_RESTARTS):
        ended(child)
        child.check(said.append)
    ended(child)
    assert len(said) == MAX_RESTARTS
    assert "worker-1 ended with 1; restart 3 of 3" in said[-1]
    with pytest.raises(ServiceError, match="keeps ending") as error:
        child.check(said.append)
    assert "the reason" in str(error.value)
    assert not isinstance(error.value, Unusable)


def test_what_cannot_pass_is_said_at_once_in_one_line(make: Make) -> None:
    child = make(
        "import sys; print('much'); sys.stderr.write('darkroom program: The port is in use.\\n'); sys.exit(2)"
    )
    child.start()
    ended(child)
    with pytest.raises(Unusable, match=r"^The worker-1 cannot run: The port is in use\.$"):
        child.check(pytest.fail)


def test_a_program_in_the_folder_where_it_is_started_is_not_run(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = make("from pathlib import Path; print(Path.cwd().name); import mine")
    here = tmp_path / "here"
    here.mkdir()
    (here / "mine.py").write_text("")
    monkeypatch.chdir(here)
    child.start()
    ended(child)
    assert child.tail().startswith("here\n"), (
        "paths in settings mean what they meant where the command was given"
    )
    assert "No module named 'mine'" in child.tail()


def test_workers_that_cannot_run_are_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    environ = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "DARKROOM_MODEL": str(tmp_path / "none"),
    }
    group = WorkerGroup([{"DARKROOM_DEVICE": "cpu"}] * 2, environ)
    begun = time.monotonic()
    with pytest.raises(Unusable, match="No worker can run"):
        group.watch()
    assert time.monotonic() - begun < 60
    assert capfd.readouterr().err.count("is no folder here, and no hub id") == 2

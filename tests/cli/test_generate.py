"""`darkroom generate` and `darkroom jobs` against a running platform, as people run them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from benchmarks.lib.platform import FAKE
from cli.follow import Progress, after_event
from cli.main import app
from client import Event
from tests.integration.conftest import Stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack.open(FAKE, tmp_path_factory.mktemp("generate"), broker=False) as running:
        yield running


def run(stack: Stack, *arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"DARKROOM_SERVER": stack.url})


@pytest.mark.slow
def test_pictures_are_numbered_where_there_are_several(stack: Stack, tmp_path: Path) -> None:
    one = run(stack, "generate", "a", "-o", str(tmp_path / "one.png"), "--seed", "7")
    assert one.exit_code == 0, one.output
    assert "seed 7, drawn" in one.output
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    again = run(stack, "generate", "a", "-o", str(tmp_path / "one.png"), "--seed", "7")
    assert "from the cache" in again.output
    three = run(stack, "generate", "b", "-n", "3", "-o", str(tmp_path / "new" / "x.png"))
    assert three.exit_code == 0, three.output
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["x-1.png", "x-2.png", "x-3.png"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "begins"),
    [("x.png", b"\x89PNG"), ("x.jpg", b"\xff\xd8\xff"), ("x.JPEG", b"\xff\xd8\xff"), ("x.webp", b"RIFF")],
)
def test_a_picture_is_what_its_suffix_says(stack: Stack, tmp_path: Path, name: str, begins: bytes) -> None:
    done = run(stack, "generate", "c", "-o", str(tmp_path / name))
    assert done.exit_code == 0, done.output
    assert (tmp_path / name).read_bytes().startswith(begins)


@pytest.mark.slow
def test_standard_output_gets_the_picture_alone(stack: Stack) -> None:
    done = run(stack, "generate", "d", "-o", "-")
    assert done.exit_code == 0, done.output
    assert done.stdout_bytes.startswith(b"\x89PNG")
    assert done.stdout_bytes.endswith(b"IEND\xaeB`\x82")
    assert "standard output" in done.stderr


@pytest.mark.slow
def test_where_a_picture_cannot_go_is_said_before_a_job_is_submitted(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = stack.http.get("/v1/jobs").json()["data"]
    for out in (tmp_path, tmp_path / "x.gif", tmp_path / "file" / "x.png", "-"):
        done = run(stack, "generate", "e", "-n", "2", "-o", str(out))
        assert done.exit_code == 2, done.output
        assert "--out" in done.stderr
    assert stack.http.get("/v1/jobs").json()["data"] == before


@pytest.mark.slow
def test_watch_tells_every_change(stack: Stack, tmp_path: Path) -> None:
    done = run(stack, "generate", "slow=0.4", "--seed", "random", "--watch", "-o", str(tmp_path / "w.png"))
    assert done.exit_code == 0, done.output
    assert "queued" in done.stderr
    assert ": succeeded" in done.stderr


@pytest.mark.slow
def test_jobs_are_listed_shown_and_canceled(stack: Stack, tmp_path: Path) -> None:
    job = stack.submit(prompt="slow=20", seed="random")
    listed = run(stack, "jobs", "list", "--limit", "1")
    assert job["id"] in listed.stdout
    shown = json.loads(run(stack, "jobs", "show", job["id"]).stdout)
    assert shown["id"] == job["id"]
    assert "canceled" in run(stack, "jobs", "cancel", job["id"]).stdout
    unknown = run(stack, "jobs", "show", "job_nonsense")
    assert (unknown.exit_code, "no such job" in unknown.stderr) == (1, True)


def test_progress_in_words() -> None:
    start = Progress("queued", 3, 12.4)
    assert str(start) == "queued, 3 ahead, about 12 s"
    step = after_event(start, Event(name="progress", data={"step": 2, "steps": 4}))
    assert str(step) == "running, step 2 of 4"
    assert after_event(step, Event(name="output", data={})) == step
    assert str(after_event(step, Event(name="status", data={"status": "succeeded"}))) == "succeeded"

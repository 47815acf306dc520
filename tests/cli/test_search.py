"""`darkroom search` against a running platform, and its examples."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from contracts import exit_codes
from tests.cli.test_examples import examples
from tests.client.test_client import scripted
from tests.integration.conftest import READY_S, ROOT, Stack
from tests.integration.searching import searching

pytestmark = pytest.mark.slow

PROMPTS = ("a red apple", "a rocket on a yellow background")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with searching(tmp_path_factory.mktemp("command-search"), PROMPTS) as running:
        yield running


def environment(stack: Stack) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "300",
        "DARKROOM_SERVER": stack.url,
        "DARKROOM_API_KEY": stack.environ["DARKROOM_ADMIN_KEY"],
    }


def run(stack: Stack, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["darkroom", *arguments],
        cwd=folder,
        env=environment(stack),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


BRINGING = ("darkroom search add", "darkroom search remove")
"""Examples that change what is found. Those of `add` and `remove` are in `test_search_add.py`."""


@pytest.mark.parametrize(
    "example",
    [
        each
        for each in dict.fromkeys(examples())
        if "darkroom search" in each and not any(name in each for name in BRINGING)
    ],
)
def test_an_example_works(stack: Stack, tmp_path: Path, example: str) -> None:
    done = run(stack, tmp_path, *shlex.split(example)[1:])
    assert done.returncode == 0, done.stderr
    assert done.stdout
    for name in tmp_path.iterdir():
        Image.open(name).load()
    assert len(list(tmp_path.iterdir())) == (".png" in example)


def test_words_find_and_a_hit_finds_its_like(stack: Stack, tmp_path: Path) -> None:
    found = run(stack, tmp_path, "search", "a rocket", "--json")
    assert found.returncode == 0, found.stderr
    best = json.loads(found.stdout)[0]
    assert best["prompt"] == PROMPTS[1]
    assert best["why"]["vector"]["rank"] == 1
    # What has the name of a command is a word behind `find`, as options are before the words.
    table = run(stack, tmp_path, "search", "--limit", "1", "a rocket").stdout.splitlines()
    assert len(table) == 2
    assert best["name"] in table[1]
    similar = run(stack, tmp_path, "search", "--like", best["url"], "--json")
    assert [hit["prompt"] for hit in json.loads(similar.stdout)] == [PROMPTS[0]]
    drawn = tmp_path / "drawn.png"
    assert run(stack, tmp_path, "generate", PROMPTS[1], "-o", "drawn.png").returncode == 0
    by_image = run(stack, tmp_path, "search", "--image", str(drawn), "-n", "1", "--json")
    assert [hit["name"] for hit in json.loads(by_image.stdout)] == [best["name"]]
    assert run(stack, tmp_path, "search", "find", "rebuild", "--model", "none", "--json").stdout == "[]\n"
    assert "Nothing was found." in run(stack, tmp_path, "search", "a", "--until", "1990-01-01").stderr


def test_standard_output_takes_a_sheet(stack: Stack, tmp_path: Path) -> None:
    with (tmp_path / "sheet").open("wb") as file:
        command = ["darkroom", "search", "", "-o", "-"]
        subprocess.run(command, env=environment(stack), stdout=file, timeout=100, check=True)
    with Image.open(tmp_path / "sheet") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > sheet.height, "two images side by side"


def test_a_refusal_is_one_line(stack: Stack, tmp_path: Path) -> None:
    done = run(stack, tmp_path, "search", "--like", "0" * 64 + ".png")
    assert (done.returncode, done.stdout) == (exit_codes.FAILED, "")
    assert done.stderr.startswith("The index has no such image")
    both = run(stack, tmp_path, "search", "a", "--like", "0" * 64 + ".png")
    assert both.returncode == exit_codes.UNUSABLE


def test_a_rebuild_is_awaited(stack: Stack, tmp_path: Path) -> None:
    for _ in range(2):
        before = stack.http.get("/v1/admin/search").json()["rebuild"]
        done = run(stack, tmp_path, "search", "rebuild", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        index = json.loads(done.stdout)
        assert index["images"] == len(PROMPTS)
        assert index["rebuild"]["records"] == len(PROMPTS)
        assert index["rebuild"]["finished_at"] >= index["rebuild"]["started_at"]
        assert before is None or index["rebuild"]["started_at"] > before["started_at"], "not the last one"


def test_ctrl_c_leaves_a_rebuild_running_and_says_so(tmp_path: Path) -> None:
    """A server whose rebuild does not end: the real one would end before the signal."""
    running = {"started_at": 1.0, "records": 5, "finished_at": None}
    state = {"model": "m", "images": 1, "bytes_on_disk": 1, "bytes_in_memory": 1, "owed_jobs": 0}
    answer: tuple[int, dict[str, str], bytes] = (200, {}, json.dumps({**state, "rebuild": running}).encode())
    with (
        scripted(*[answer] * 2000) as (url, seen),
        subprocess.Popen(
            ["darkroom", "search", "rebuild", "--server", url, "--api-key", "k"],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as command,
    ):
        end = time.monotonic() + READY_S
        while len(seen) < 4 and command.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.05)
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=100)
    assert command.returncode == exit_codes.INTERRUPTED, said
    assert said == "The rebuild goes on. `darkroom search rebuild` shows it again.\n"

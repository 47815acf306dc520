"""`darkroom search add` and `remove` against a running platform: a folder, killed half-way and started again, and pages of the loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from contracts import exit_codes
from tests.cli.web import png, web
from tests.integration.conftest import READY_S, ROOT, Stack
from tests.integration.searching import searching, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PICTURES = 160


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with searching(tmp_path_factory.mktemp("adding"), ("a red apple",)) as running:
        yield running


def environment(stack: Stack) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "DARKROOM_SERVER": stack.url,
        "DARKROOM_API_KEY": stack.environ["DARKROOM_ADMIN_KEY"],
    }


def start(stack: Stack, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["darkroom", "search", *arguments],
        cwd=folder,
        env=environment(stack),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(stack: Stack, folder: Path, *arguments: str) -> tuple[int, str, str]:
    with start(stack, folder, *arguments) as command:
        out, err = command.communicate(timeout=300)
    return command.returncode, out, err


def imported(stack: Stack) -> list[dict[str, Any]]:
    """All imported pictures that a search finds, page by page."""
    hits, cursor = list[dict[str, Any]](), None
    while True:
        query = {"source": "imported", "limit": "100", **({"cursor": cursor} if cursor else {})}
        answer = stack.http.get("/v1/search", params=query).json()
        hits += answer["data"]
        if (cursor := answer["next_cursor"]) is None:
            return hits


def test_a_folder_killed_half_way_is_resumed_and_each_picture_is_found_once(
    stack: Stack, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(PICTURES):
        Image.new("RGB", (64, 48), (number, 255 - number, 77)).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(f"a plain card number{number}")
    (folder / "none.png").write_text("no picture")

    command = start(stack, tmp_path, "add", "pictures")
    end = time.monotonic() + READY_S
    while "known" not in (metrics := stack.http.get("/metrics").text) or added(metrics) < PICTURES // 4:
        assert command.poll() is None, command.communicate()
        assert time.monotonic() < end, stack.logs()
        time.sleep(0.01)
    command.send_signal(signal.SIGKILL)
    command.communicate()
    before = added(stack.http.get("/metrics").text)
    assert 0 < before < PICTURES, "it was killed half-way"

    code, out, err = run(stack, tmp_path, "add", "pictures", "--json")
    summary = json.loads(out)
    assert (code, summary["left_out"]) == (exit_codes.FAILED, {"no_picture": 1}), err
    assert summary["added"] + summary["known"] == PICTURES
    # A call that was under way at the kill may have been carried out.
    assert before <= summary["known"] <= before + 8
    assert added(stack.http.get("/metrics").text) == PICTURES, "none was done twice"

    until(lambda: len(imported(stack)) >= PICTURES, stack)
    hits = imported(stack)
    assert Counter(hit["origin"] for hit in hits) == Counter(
        {f"pictures/{number:03}.png": 1 for number in range(PICTURES)}
    )
    assert len({hit["name"] for hit in hits}) == PICTURES
    hit = next(each for each in hits if each["origin"] == "pictures/005.png")
    assert (hit["prompt"], hit["job_id"], hit["seed"], hit["model"]) == (
        "a plain card number5",
        None,
        None,
        "",
    )
    assert (hit["width"], hit["height"]) == (64, 48)
    by_words = stack.http.get("/v1/search", params={"q": "number5 card", "limit": 1}).json()["data"]
    assert [each["name"] for each in by_words] == [hit["name"]]
    similar = stack.http.get(f"/v1/images/{hit['name']}/similar", params={"limit": 5}).json()["data"]
    assert len(similar) == 5
    drawn = stack.http.get("/v1/search", params={"source": "generated"}).json()["data"]
    assert [each["prompt"] for each in drawn] == ["a red apple"]

    # The embeddings are recorded: a rebuild needs no file.
    code, out, err = run(stack, tmp_path, "rebuild", "--json")
    assert (code, json.loads(out)["images"]) == (0, PICTURES + 1), err

    code, out, err = run(stack, tmp_path, "remove", hit["url"])
    assert (code, out) == (0, "Removed 1 pictures.\n"), err
    until(lambda: len(imported(stack)) == PICTURES - 1, stack)
    assert stack.http.get(hit["url"]).status_code == 404
    code, _, err = run(stack, tmp_path, "remove", hit["name"])
    assert (code, err) == (exit_codes.FAILED, "You have imported no such image.\n")


def added(metrics: str) -> int:
    lines = [
        line
        for line in metrics.splitlines()
        if line.startswith('darkroom_search_imports_total{outcome="added"}')
    ]
    return int(float(lines[0].rpartition(" ")[2])) if lines else 0


def test_addresses_and_a_page_of_the_web(stack: Stack, tmp_path: Path) -> None:
    page = b'<img src="1.png" alt="an orange square"><img src="2.png">'
    pages: dict[str, Any] = {
        "/page.html": (200, {"Content-Type": "text/html"}, page),
        "/1.png": (200, {}, png("orange")),
        "/2.png": (200, {}, png("purple")),
    }
    with web(pages) as site:
        (tmp_path / "list.txt").write_text(f"{site.url}/page.html\n")
        code, out, _ = run(stack, tmp_path, "add", "list.txt", "--rate", "1000")
        assert code == exit_codes.FAILED, "it is no public address"
        assert "leads to an address that is not public" in out
        assert site.asked == []
        allow = ("--allow-networks", "127.0.0.0/8", "--rate", "1000")
        code, out, err = run(stack, tmp_path, "add", "list.txt", *allow)
        assert (code, out) == (0, "2 added, 0 were there already, 0 left out.\n"), err
        assert not list((tmp_path / ".cache" / "crawls").iterdir()), "a run that is done leaves no journal"
    until(
        lambda: (
            {hit["prompt"] for hit in imported(stack) if hit["origin"].startswith(site.url)}
            == {"an orange square", ""}
        ),
        stack,
    )


@pytest.mark.parametrize(
    ("source", "words", "code"),
    [
        ("nowhere", "is neither a folder nor a file", exit_codes.UNUSABLE),
        ("empty", "has no picture", exit_codes.UNUSABLE),
        ("empty.txt", "has no picture", exit_codes.UNUSABLE),
        ("s3://", "names no bucket", exit_codes.FAILED),
    ],
)
def test_a_source_without_pictures_is_told(
    stack: Stack, tmp_path: Path, source: str, words: str, code: int
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    told = run(stack, tmp_path, "add", source)
    assert told[0] == code, told
    assert words in " ".join(told[2].split())


def test_a_server_that_is_away_ends_the_command_and_says_how_to_go_on(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    command = [sys.executable, "-c", FEW_TRIES, "search", "add", ".", "--server", "http://127.0.0.1:9"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(stack),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == exit_codes.FAILED, done
    assert "it goes on where it was" in done.stderr
    assert "http://127.0.0.1:9 does not answer" in done.stderr


FEW_TRIES = "import cli.crawl.run as run; run.TRIES = 1; from cli.main import app; app()"

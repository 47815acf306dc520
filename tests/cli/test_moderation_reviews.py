"""`darkroom moderation` for reviewers, against a running platform, and its examples."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lib.platform import FAKE
from cli.moderation_reviews import by_people
from client.reviews import Review
from contracts.tenancy import new_token
from tests.cli.test_examples import examples
from tests.integration.conftest import ROOT, Stack
from tests.worker.policies import HELD, file_of, name_of, policy_in

pytestmark = pytest.mark.slow

KEY = "a key that signs"
COMMANDS = ("reviews", "release", "refuse", "undo", "export", "log")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("reviews")
    environ = {
        **FAKE,
        "DARKROOM_MODERATION": str(policy_in(folder / "policy")),
        "DARKROOM_MODERATION_LOG_KEY": KEY,
        "DARKROOM_ADMIN_KEY": new_token(),
    }
    with Stack.open(environ, folder / "platform", broker=False) as running:
        job = running.ended(running.submit(prompt="a sword", seed=HELD))
        assert job["images"][0]["url"] is None, job
        yield running


def run(stack: Stack, folder: Path, *arguments: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["darkroom", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "300",
            "DARKROOM_SERVER": stack.url,
            "DARKROOM_API_KEY": stack.environ["DARKROOM_ADMIN_KEY"],
            "DARKROOM_MODERATION_LOG_KEY": key,
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_a_reviewer_works_with_commands_alone(stack: Stack, tmp_path: Path) -> None:
    name = name_of(HELD)
    listed = run(stack, tmp_path, "moderation", "reviews")
    assert name in listed.stdout, listed.stderr
    assert "a sword" in listed.stdout
    for action, state in (("release", "released"), ("undo", "waiting"), ("refuse", "refused")):
        done = run(stack, tmp_path, "moderation", action, name, "--note", "tried")
        assert (done.returncode, f"{name}: {state}." in done.stderr) == (0, True), done.stderr
    again = run(stack, tmp_path, "moderation", "release", name)
    assert (again.returncode, "was refused before" in again.stderr) == (1, True), again.stderr
    (decided,) = json.loads(run(stack, tmp_path, "moderation", "reviews", "--decided", "--json").stdout)[
        "data"
    ]
    assert (decided["name"], decided["state"]) == (name, "refused")

    exported = run(stack, tmp_path, "moderation", "export", "decisions", "--pictures")
    assert exported.returncode == 0, exported.stderr
    (line,) = (tmp_path / "decisions" / "decisions.jsonl").read_text().splitlines()
    assert json.loads(line)["sha256"] == name.partition(".")[0]
    assert json.loads(line)["decision"] == "refused"
    assert (tmp_path / "decisions" / "refused" / name).read_bytes() == file_of(HELD)
    assert run(stack, tmp_path, "moderation", "export", "decisions").returncode == 2, (
        "never over what is there"
    )

    checked = run(stack, tmp_path, "moderation", "log", "--verify")
    assert (checked.returncode, "3 entries hold and are signed" in checked.stderr) == (0, True), (
        checked.stderr
    )
    assert [line.split()[3] for line in checked.stdout.splitlines()] == ["release", "undo", "refuse"]
    forged = run(stack, tmp_path, "moderation", "log", "--verify", key="another key")
    assert (forged.returncode, "not signed by this key" in forged.stderr) == (1, True)


def test_what_nobody_decided_is_not_exported() -> None:
    fields: dict[str, Any] = {
        "state": "refused",
        "severity": 1,
        "created_at": 1.0,
        "policy": "house@3",
        "prompt": "a",
        "model": "m",
        "width": 64,
        "height": 64,
        "seed": 1,
        "content_type": "image/png",
        "size_bytes": 9,
        "picture": "/",
    }
    reviews = [
        Review.model_validate(
            {**fields, "name": name, "decision": {"id": "d", "choice": "refuse", "by": by, "at": 1.0}}
        )
        for name, by in (("decided", "dk_12345678"), ("lapsed", ""))
    ]
    # Of images that were decided before, the review that a later job opens has no decision of its own.
    for layer in ("people", "second_look"):
        reviews.append(Review.model_validate({**fields, "name": layer, "layer": layer, "decision": None}))
    assert [each.name for each in by_people(reviews)] == ["decided", "people"]


def test_a_held_picture_is_said_to_be_under_review(stack: Stack, tmp_path: Path) -> None:
    held = run(stack, tmp_path, "generate", "a sword, again", "--seed", "104", "--out", "shown.png")
    assert held.returncode == 0, held.stderr
    refused = run(stack, tmp_path, "generate", "a sword", "--seed", str(HELD), "--out", "held.png")
    assert refused.returncode == 1
    assert "content policy" in refused.stderr or "reviewer" in refused.stderr, refused.stderr
    assert not (tmp_path / "held.png").exists()


def test_a_key_for_a_reviewer_is_made_by_command(stack: Stack, tmp_path: Path) -> None:
    made = run(stack, tmp_path, "keys", "create", "desk", "--name", "Ada", "--moderate")
    assert made.returncode == 0, made.stderr
    listed = json.loads(run(stack, tmp_path, "keys", "list", "--tenant", "desk", "--json").stdout)
    assert listed[0]["scopes"] == ["moderate"]


@pytest.mark.parametrize(
    "example",
    [
        each
        for each in dict.fromkeys(examples())
        if each.startswith("darkroom moderation") and shlex.split(each)[2] in COMMANDS
    ],
)
def test_an_example_works(stack: Stack, tmp_path: Path, example: str) -> None:
    words = [name_of(HELD) if word == "NAME" else word for word in shlex.split(example)[1:]]
    done = run(stack, tmp_path, *words)
    told = ("was refused before", "was released before", "Nothing is decided")
    assert done.returncode == 0 or any(words in done.stderr for words in told), done.stderr

"""`darkroom generate` and `darkroom jobs` against a running platform, as people run them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from benchmarks.lib.platform import FAKE
from cli.follow import Progress, after_event
from cli.main import app
from client import Event
from tests.integration.conftest import ROOT, Stack


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
@pytest.mark.parametrize(
    ("options", "begins"),
    [
        (("--format", "jpeg", "-o", "-"), b"\xff\xd8\xff"),
        (("--format", "webp", "-o", "picture"), b"RIFF"),
        (("--format", "webp"), b"RIFF"),
        (("--format", "jpeg", "-o", "x.jpg"), b"\xff\xd8\xff"),
    ],
)
def test_the_format_may_be_named(
    stack: Stack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    begins: bytes,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(stack, "generate", "f", *options)
    assert done.exit_code == 0, done.output
    written = [path.read_bytes() for path in tmp_path.iterdir()] or [done.stdout_bytes]
    assert [picture.startswith(begins) for picture in written] == [True]


@pytest.mark.slow
def test_a_name_of_another_format_is_refused(stack: Stack, tmp_path: Path) -> None:
    done = run(stack, "generate", "f", "--format", "webp", "-o", str(tmp_path / "x.png"))
    assert (done.exit_code, "x.png is the name of a png" in " ".join(done.stderr.split())) == (2, True)


@pytest.mark.slow
def test_a_record_as_json_names_the_files(stack: Stack, tmp_path: Path) -> None:
    done = run(stack, "generate", "g", "-n", "2", "--json", "-o", str(tmp_path / "x.png"))
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert (record["status"], len(record["images"])) == ("succeeded", 2)
    assert record["files"] == [str(tmp_path / name) for name in ("x-1.png", "x-2.png")]
    assert all(Path(name).read_bytes().startswith(b"\x89PNG") for name in record["files"])


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--json", "--open"])
def test_what_cannot_share_standard_output_is_refused(stack: Stack, option: str) -> None:
    assert run(stack, "generate", "g", "-o", "-", option).exit_code == 2


@pytest.mark.slow
def test_a_picture_is_opened(stack: Stack, tmp_path: Path) -> None:
    viewer, seen = tmp_path / "xdg-open", tmp_path / "seen"
    os.mkfifo(seen)
    viewer.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    viewer.chmod(0o755)
    # A process of its own: it does not wait for the viewer.
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "generate", "h", "--open", "-o", str(tmp_path / "x.png")],
        env={
            **os.environ,
            "DARKROOM_SERVER": stack.url,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0
    assert seen.read_text() == f"{tmp_path / 'x.png'}\n"


@pytest.mark.slow
def test_a_picture_that_nothing_opens_is_kept_and_told(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run(stack, "generate", "h", "--open", "-o", str(tmp_path / "x.png"))
    assert done.exit_code == 0, done.output
    assert "No program here opens" in done.stderr
    assert (tmp_path / "x.png").exists()


@pytest.mark.slow
def test_a_picture_to_start_from_and_further_fields_are_sent(stack: Stack, tmp_path: Path) -> None:
    start = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(start, "PNG")
    (tmp_path / "start.png").write_bytes(start.getvalue())
    options = ["--init-image", str(tmp_path / "start.png"), "--strength", "0.5", "--steps", "4"]
    options += ["--priority", "batch", "--cache", "off", "--json", "-o", str(tmp_path / "x.png")]
    done = run(stack, "generate", "i", *options)
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    request = record["request"]
    assert (request["strength"], request["cache"]) == (0.5, "off")
    assert request["init_image"]
    assert stack.http.get(f"/v1/jobs/{record['id']}").json()["priority"] == "batch"
    assert record["denoising_steps"] == 2
    lora = run(stack, "generate", "i", "--lora", "pixel=0.8", "-o", str(tmp_path / "x.png"))
    assert (lora.exit_code, "lora" in lora.stderr) == (1, True), "the server knows which there are"


@pytest.mark.slow
@pytest.mark.parametrize("how", [(), ("--watch",)])
def test_a_wait_ends_in_time(stack: Stack, tmp_path: Path, how: tuple[str, ...]) -> None:
    begun = time.monotonic()
    options = ("--seed", "random", "--timeout", "0.5", *how, "-o", str(tmp_path / "x.png"))
    done = run(stack, "generate", "slow=30", *options)
    assert time.monotonic() - begun < 20, "the job itself takes longer"
    assert done.exit_code == 1, done.output
    assert "has not ended within 0.5 s" in done.stderr
    (job,) = [job for job in stack.http.get("/v1/jobs").json()["data"] if job["id"] in done.stderr]
    assert job["status"] in ("queued", "running")
    stack.http.post(f"/v1/jobs/{job['id']}/cancel")


@pytest.mark.slow
def test_jobs_of_one_status_are_listed_under_heads_or_as_json(stack: Stack, tmp_path: Path) -> None:
    failed = [stack.ended(stack.submit(prompt="fault:raise", seed=seed))["id"] for seed in range(3)]
    stack.ended(stack.submit(prompt="j", seed=1))
    listed = run(stack, "jobs", "list", "--status", "failed", "--limit", "2")
    head, *lines = listed.stdout.splitlines()
    assert head.split() == ["ID", "CREATED", "STATUS", "CACHE", "PROMPT"]
    assert [line.split()[0] for line in lines] == [failed[2], failed[1]]
    more = json.loads(run(stack, "jobs", "list", "--status", "failed", "--after", failed[1], "--json").stdout)
    assert more["data"][0]["id"] == failed[0]
    assert {job["status"] for job in more["data"]} == {"failed"}


@pytest.mark.slow
def test_models_are_listed(stack: Stack) -> None:
    head, line = run(stack, "models").stdout.splitlines()
    assert head.startswith("MODEL")
    assert line.split()[:3] == ["fake", "1", "64x64"]
    (model,) = json.loads(run(stack, "models", "--json").stdout)
    assert (model["id"], model["max_size"]) == ("fake", 1024)


@pytest.mark.slow
def test_webhooks_show_their_secret_and_deliveries(stack: Stack) -> None:
    secret = run(stack, "webhooks", "secret").stdout
    assert secret.startswith("whsec_")
    rotated = run(stack, "webhooks", "secret", "--rotate")
    assert rotated.stdout != secret
    assert secret.strip() in rotated.stderr, "it still signs"
    job = stack.ended(stack.submit(prompt="k"))
    assert "names no webhook" in run(stack, "webhooks", "deliveries", job["id"]).stdout
    hook = {"url": "https://receiver.example/hook"}
    told = stack.ended(stack.submit(prompt="k2", webhook=hook))
    shown = run(stack, "webhooks", "deliveries", told["id"])
    assert f"{hook['url']}: pending" in shown.stdout
    record = json.loads(run(stack, "webhooks", "deliveries", told["id"], "--json").stdout)
    assert (record["url"], record["attempts"]) == (hook["url"], [])


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

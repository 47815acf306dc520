"""Prompts in over REST, pictures out: RabbitMQ, two workers, the embedded model."""

from __future__ import annotations

import io
import json
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from sd_parsers import ParserManager

from tests.integration.conftest import ROOT, Deploy, Stack

pytestmark = pytest.mark.slow

THINGS = (
    "rocket",
    "red apple",
    "snowman",
    "pizza",
    "umbrella",
    "key",
    "guitar",
    "hot dog",
    "tree",
    "mushroom",
)
COLOURS = ("blue", "yellow", "white", "green")


def pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(np.float64)


def psnr_db(one: Any, other: Any) -> float:
    """Peak signal to noise ratio of two pictures of 8 bits a channel, in decibels; infinite where they are equal."""
    error = np.mean((one - other) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_server: Any, rabbit_server: Any) -> Any:
    with Stack.open({}, tmp_path_factory.mktemp("first"), redis_server, rabbit_server, workers=2) as running:
        yield running


def test_two_hundred_mixed_prompts_at_once(stack: Stack) -> None:
    requests = [
        {
            "prompt": f"a {THINGS[i % 10]} on a {COLOURS[i % 4]} background",
            "seed": i % 7,
            "width": 96 if i % 9 == 0 else 64,
            "height": 64,
            "num_images": 2 if i % 11 == 0 else 1,
        }
        for i in range(160)
    ]
    requests += requests[:40]  # forty are asked for twice
    with ThreadPoolExecutor(32) as pool:
        jobs = list(pool.map(lambda request: stack.submit(**request), requests))
        done = list(pool.map(stack.ended, jobs))
    assert Counter(job["status"] for job in done) == {"succeeded": 200}
    assert max(job["timings"]["batch_size"] for job in done if job["timings"]) > 1
    computed = Counter(json.dumps(job["request"], sort_keys=True) for job in done if job["cache"] == "miss")
    different = {json.dumps(job["request"], sort_keys=True) for job in done}
    assert set(computed.values()) == {1}, "identical prompts are computed once"
    assert set(computed) == different
    for job in done[::10]:
        for image in job["images"]:
            response = stack.http.get(image["url"])
            assert response.headers["content-type"] == image["content_type"] == "image/png"
            assert response.headers["etag"].strip('"') in image["url"]
            assert pixels(response.content).shape == (image["height"], image["width"], 3)


def test_the_same_seed_alone_and_in_a_batch_is_the_same_picture(stack: Stack) -> None:
    """Batches differ in the order of floating-point sums: at most a rounding step in a few values."""
    request = {"prompt": "a rocket on a green background", "seed": 12345, "model": "emoji-turbo"}
    alone = stack.ended(stack.submit(**request))
    assert alone["timings"]["batch_size"] == 1
    first = pixels(stack.http.get(alone["images"][0]["url"]).content)
    worst = float("inf")
    for attempt in range(3):
        # Another number of images is another key, and the first of them is the picture of the same seed.
        crowd = [
            stack.submit(prompt="a rocket on a green background", seed=900 + attempt * 50 + i)
            for i in range(30)
        ]
        again = stack.ended(stack.submit(**request, num_images=2 + attempt))
        for job in crowd:
            stack.ended(job)
        assert again["timings"]["batch_size"] > 1
        worst = min(worst, psnr_db(first, pixels(stack.http.get(again["images"][0]["url"]).content)))
    print(f"PSNR alone against batch: {worst:.1f} dB")
    assert worst >= 50.0


def test_the_picture_shows_what_was_asked_for(stack: Stack) -> None:
    job = stack.ended(stack.submit(prompt="a red apple on a blue background", seed=3))
    picture = pixels(stack.http.get(job["images"][0]["url"]).content)
    corner, middle = picture[2:6, 2:6].mean((0, 1)), picture[26:40, 26:40].mean((0, 1))
    assert corner[2] > corner[0] + 60, "blue around"
    assert middle[0] > middle[2] + 60, "red in the middle"


def test_a_long_prompt_is_cut_with_a_warning(stack: Stack) -> None:
    job = stack.ended(stack.submit(prompt="a red apple " * 40))
    assert job["status"] == "succeeded"
    assert "tokens" in job["warnings"][0]


def test_a_repeat_is_a_hit_and_a_new_process_finds_it_too(stack: Stack) -> None:
    request = {"prompt": "a snowman on a pink background", "seed": 77}
    first = stack.ended(stack.submit(**request))
    again = stack.submit(**request)
    assert (again["status"], again["cache"]) == ("succeeded", "hit")
    assert again["images"] == first["images"]


@pytest.mark.parametrize("format_", ["png", "jpeg", "webp"])
def test_a_file_tells_how_it_was_made_where_that_is_asked(stack: Stack, format_: str) -> None:
    asked = {"prompt": "a red apple", "seed": 11, "output_format": format_, "embed_metadata": True}
    (image,) = stack.ended(stack.submit(**asked))["images"]
    found = ParserManager().parse(io.BytesIO(stack.http.get(image["url"]).content))
    assert found is not None
    (sampler,) = found.samplers
    assert sampler.name == "Euler"
    assert sampler.parameters == {"steps": "1", "cfg_scale": "0.0", "seed": "11", "scheduler": "SGM Uniform"}
    assert sampler.model is not None
    assert sampler.model.name == "emoji-turbo"


def test_a_second_model_is_served_beside_the_first(stack: Stack) -> None:
    stack.start("worker", "base", DARKROOM_MODEL=str(ROOT / "models" / "emoji-base"))
    stack.wait_ready(1, "emoji-base")
    asked = {"prompt": "a snowman on a blue background", "seed": 5}
    short = {**asked, "num_inference_steps": 4}
    jobs = [
        stack.submit(model="emoji-base", negative_prompt="red", guidance_scale=2.0, **short),
        stack.submit(model="emoji-base", **short),
        stack.submit(model="emoji-turbo", **asked),
    ]
    done = [stack.ended(job) for job in jobs]
    assert [job["status"] for job in done] == ["succeeded"] * 3
    assert len({job["images"][0]["url"] for job in done}) == 3
    assert [job["request"]["guidance_scale"] for job in done] == [2.0, 1.5, 0.0]


def test_the_api_carries_no_torch(stack: Stack) -> None:
    maps = psutil.Process(stack.processes["api"].pid).memory_maps()
    assert not [each.path for each in maps if "torch" in each.path]
    worker = psutil.Process(stack.processes["worker-1"].pid).memory_maps()
    assert not [each.path for each in worker if "torch" in each.path], "only the engine does"


def test_the_logs_hold_no_prompt(stack: Stack) -> None:
    stack.ended(stack.submit(prompt="an unmistakable xylograph"))
    assert "xylograph" not in "".join(
        path.read_text(errors="replace") for path in stack.folder.glob("*/output.log")
    )


def test_nothing_stays_behind(deploy: Deploy) -> None:
    before = _children()
    stack = deploy(rabbitmq=False)
    stack.ended(stack.submit(prompt="a"))
    for running in stack.processes.values():
        running.terminate()
    for running in stack.processes.values():
        assert running.wait(30) == 0
    _, alive = psutil.wait_procs(_children() - before, timeout=15)
    names = {p.name() for p in alive if p.status() != psutil.STATUS_ZOMBIE}
    assert not {name for name in names if "python" in name}, names


def test_an_api_that_is_told_to_end_ends_connections_with_their_answers(deploy: Deploy) -> None:
    """Who is held is answered, and who comes again at once on a connection of before as well."""
    stack = deploy(rabbitmq=False)
    job = stack.submit(prompt="slow=3", seed="random")
    with httpx.Client(base_url=stack.url, timeout=30) as held, httpx.Client(base_url=stack.url) as idle:
        assert "connection" not in idle.get("/healthz").headers
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(held.get, job["urls"]["self"], headers={"Prefer": "wait=20"})
            until = time.monotonic() + 10.0
            while "darkroom_waiters 1.0" not in idle.get("/metrics").text:
                assert time.monotonic() < until, "held"
            stack.kill("api", signal.SIGTERM)
            while (last := idle.get("/readyz")).status_code == 200:
                assert time.monotonic() < until, "told"
            answers = [answer.result(), last]
        assert answers[0].json()["status"] in ("queued", "running")
        assert (last.status_code, last.json()["error"]["message"]) == (503, "Not ready: the process ends.")
        assert [each.headers["connection"] for each in answers] == ["close", "close"]
    assert stack.processes["api"].wait(30) == 0


def _children() -> set[psutil.Process]:
    return {p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE}

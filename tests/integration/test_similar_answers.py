"""A prompt that means the same as a cached one is answered by its images, for who asks for that."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from cli.services import process
from client import Client
from contracts import exit_codes
from contracts.tenancy import new_token
from search.clip import ClipModel
from search.golden import fitted
from tests.integration.conftest import ROOT, Stack
from tests.integration.searching import until

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]

CLIP = str(ROOT / "models" / "emoji-clip")


@cache
def least_floor() -> float:
    """The fitted floor of the embedded CLIP."""
    return fitted(ClipModel(CLIP).texts).floor


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_server: Any) -> Iterator[Stack]:
    port, folder = process.free_port(), tmp_path_factory.mktemp("similar")
    settings = {
        "DARKROOM_ADMIN_KEY": new_token(),
        "DARKROOM_CLIP": CLIP,
        "DARKROOM_SEARCH_URL": f"http://127.0.0.1:{port}",
        "DARKROOM_SEARCH_PORT": str(port),
        "DARKROOM_SEARCH_INDEX": f"embedded:{folder / 'index'}",
        "DARKROOM_SIMILAR_FLOOR": str(least_floor()),
    }
    with Stack.open(settings, folder, redis_server, broker=False) as running:
        running.start("search", "search")
        until(lambda: running.http.get("/v1/search").status_code == 200, running)
        yield running


def asked(
    stack: Stack, prompt: str, http: httpx.Client | None = None, **body: Any
) -> tuple[httpx.Response, dict[str, Any]]:
    """The answer to a request for a similar answer, once the job has ended."""
    response = (http or stack.http).post(
        "/v1/jobs", json={"prompt": prompt, "cache": "similar", **body}, headers={"Prefer": "wait=60"}
    )
    assert response.status_code == 200, response.text
    job: dict[str, Any] = response.json()
    assert job["status"] == "succeeded", job
    return response, job


def as_tenant(stack: Stack, key: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=stack.url, headers=headers, timeout=90.0)


def test_a_paraphrase_is_answered_and_told(stack: Stack) -> None:
    response, drawn = asked(stack, "a red apple")
    assert (response.headers["x-cache"], drawn["cache"], drawn["similar"]) == ("miss", "miss", None)
    assert drawn["request"]["cache"] == "similar"

    response, job = asked(stack, "one red apple")
    assert (response.headers["x-cache"], job["cache"]) == ("similar", "similar")
    assert job["images"] == drawn["images"]
    assert job["request"]["prompt"] == "one red apple"
    assert job["similar"]["prompt"] == "a red apple"
    assert least_floor() <= job["similar"]["score"] <= 1
    assert float(response.headers["x-cache-score"]) == job["similar"]["score"]
    assert unquote(response.headers["x-cache-prompt"]) == "a red apple"
    read = stack.http.get(job["urls"]["self"])
    assert read.json()["similar"] == job["similar"]
    assert read.headers["x-cache"] == "similar"

    # The same prompt again has a result of its own, or none: never one that was lent to it.
    response, plain = asked(stack, "one red apple", cache="use")
    assert (response.headers["x-cache"], plain["similar"]) == ("miss", None)
    response, again = asked(stack, "one red apple")
    assert (response.headers["x-cache"], again["images"]) == ("hit", plain["images"])
    assert "x-cache-prompt" not in response.headers


def test_other_meanings_and_other_parameters_are_drawn(stack: Stack) -> None:
    asked(stack, "a blue rocket", num_images=1)
    others: tuple[tuple[str, dict[str, Any]], ...] = (
        ("a green rocket", {}),
        ("two blue rockets", {}),
        ("one blue rocket", {"num_images": 2}),
        ("one blue rocket", {"output_format": "webp"}),
        ("one blue rocket", {"seed": 3}),
    )
    for prompt, body in others:
        _, job = asked(stack, prompt, **body)
        assert job["cache"] == "miss", (prompt, body)
    assert asked(stack, "one blue rocket", output_quality=80)[1]["cache"] == "similar", "png has no quality"


def test_a_seed_that_is_named_is_kept_and_a_random_one_is_any(stack: Stack) -> None:
    drawn = asked(stack, "a yellow pear", seed=11)[1]
    assert asked(stack, "one yellow pear", seed=12)[1]["cache"] == "miss"
    assert asked(stack, "the yellow pear", seed=11)[1]["images"] == drawn["images"]
    for seed in ("random", None):
        body: dict[str, Any] = {} if seed is None else {"seed": seed}
        job = asked(stack, "the yellow pear", **body)[1]
        assert job["similar"]["prompt"] in ("a yellow pear", "one yellow pear")


def test_requests_that_do_not_ask_neither_give_nor_take(stack: Stack) -> None:
    asked(stack, "a purple umbrella", cache="use")
    assert asked(stack, "the purple umbrella")[1]["cache"] == "miss", "its prompt was not compared"
    assert asked(stack, "one purple umbrella", cache="use")[1]["cache"] == "miss"
    assert asked(stack, "one purple umbrella", cache="off")[1]["cache"] == "miss"


def test_tenants_never_meet(stack: Stack) -> None:
    with Client(stack.url, api_key=stack.environ["DARKROOM_ADMIN_KEY"]) as admin:
        keys = [admin.create_key(tenant).key for tenant in ("acme", "other")]
    with as_tenant(stack, keys[0]) as one, as_tenant(stack, keys[1]) as other:
        asked(stack, "a white snowman", one)
        assert asked(stack, "the white snowman", other)[1]["cache"] == "miss"
        assert asked(stack, "one white snowman", one)[1]["cache"] == "similar"


def test_what_cannot_be_asked_is_refused(stack: Stack) -> None:
    for body, param, words in (
        ({"cache": "similar", "similarity": 0.5}, "similarity", f"from {least_floor():g} to 1"),
        ({"cache": "similar", "similarity": 1.5}, "similarity", f"from {least_floor():g} to 1"),
        ({"similarity": 0.999}, "similarity", 'cache is "similar"'),
        ({"cache": "nearly"}, "cache", "use, refresh, off or similar"),
    ):
        answer = stack.http.post("/v1/jobs", json={"prompt": "a cat", **body})
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, param), body
        assert words in answer.json()["error"]["message"]
    asked(stack, "a green cat", similarity=1.0)
    assert asked(stack, "one green cat", similarity=0.999)[1]["cache"] in ("similar", "miss")


def test_an_idempotency_key_answers_the_same_job(stack: Stack) -> None:
    asked(stack, "a pink house")
    body = {"prompt": "the pink house", "cache": "similar"}
    first, again = (
        stack.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "similar-1"}).json() for _ in "ab"
    )
    assert first["cache"] == "similar"
    assert (again["id"], again["similar"]) == (first["id"], first["similar"])


def test_without_the_search_it_is_drawn_with_a_warning(stack: Stack) -> None:
    asked(stack, "an orange pizza")
    stack.kill("search", signal.SIGKILL)
    stack.processes["search"].wait()
    _, job = asked(stack, "one orange pizza")
    assert job["cache"] == "miss"
    assert any("could not be looked for" in warning for warning in job["warnings"])
    stack.start("search", "search")
    until(lambda: stack.http.get("/v1/search").status_code == 200, stack)
    assert asked(stack, "the orange pizza")[1]["cache"] == "similar"


def test_a_floor_below_the_fitted_one_stops_the_search(stack: Stack, tmp_path: Path) -> None:
    environ = {**stack.environ, "DARKROOM_SIMILAR_FLOOR": "0.5", "DARKROOM_SEARCH_PORT": "0"}
    environ["DARKROOM_SEARCH_INDEX"] = f"embedded:{tmp_path}"
    refused = subprocess.run(
        [sys.executable, "-m", "search"], env=environ, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert refused.returncode == exit_codes.UNUSABLE
    assert f"DARKROOM_SIMILAR_FLOOR=0.5 is below {least_floor():g}" in refused.stderr

"""Search end to end: what is drawn is found by words, by an image and by similarity, by its tenant alone."""

from __future__ import annotations

import base64
import io
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from cli.services import process
from contracts.tenancy import new_token
from tests.integration.conftest import READY_S, ROOT, Deploy, Stack

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]

PROMPTS = ("a red apple", "a rocket on a yellow background", "a cat", "an umbrella on a pink background")
TOKEN = "search-token"


def until(condition: Callable[[], Any], stack: Stack) -> Any:
    """What `condition` answers, once it is true."""
    end = time.monotonic() + READY_S
    while not (answer := condition()):
        assert time.monotonic() < end, stack.logs()
        time.sleep(0.1)
    return answer


def start_search(stack: Stack) -> None:
    stack.start("search", "search")


def found(stack: Stack, http: httpx.Client | None = None, **query: Any) -> list[dict[str, Any]]:
    answer = (http or stack.http).get("/v1/search", params=query)
    if answer.status_code == 503:
        return []
    assert answer.status_code == 200, answer.text
    hits: list[dict[str, Any]] = answer.json()["data"]
    return hits


@pytest.fixture(scope="module")
def admin_key() -> str:
    return new_token()


@pytest.fixture
def stack(deploy: Deploy, admin_key: str, tmp_path: Path) -> Stack:
    port = process.free_port()
    stack = deploy(
        rabbitmq=False,
        fake=False,
        DARKROOM_ADMIN_KEY=admin_key,
        DARKROOM_CLIP=str(ROOT / "models" / "emoji-clip"),
        DARKROOM_SEARCH_URL=f"http://127.0.0.1:{port}",
        DARKROOM_SEARCH_PORT=str(port),
        DARKROOM_SEARCH_TOKEN=TOKEN,
        DARKROOM_SEARCH_INDEX=f"embedded:{tmp_path / 'index'}",
        DARKROOM_MAX_BATCH="4",
    )
    start_search(stack)
    return stack


def test_what_was_drawn_is_found(stack: Stack) -> None:
    jobs = [stack.ended(stack.submit(prompt=prompt)) for prompt in PROMPTS]
    until(lambda: len(found(stack)) == len(PROMPTS), stack)

    newest = found(stack)
    assert [hit["prompt"] for hit in newest] == list(reversed(PROMPTS))
    assert {hit["job_id"] for hit in newest} == {job["id"] for job in jobs}

    by_words = found(stack, q="a rocket", limit=1)[0]
    assert by_words["prompt"] == PROMPTS[1]
    assert set(by_words["why"]) == {"vector", "words"}
    assert by_words["why"]["vector"]["rank"] == by_words["why"]["words"]["rank"] == 1
    assert not found(stack, q="a rocket", seed=1)

    # An image that is like one that was drawn, sent as a JPEG of half its size.
    drawn = stack.http.get(by_words["url"]).content
    small = io.BytesIO()
    Image.open(io.BytesIO(drawn)).convert("RGB").resize((48, 48)).save(small, "JPEG", quality=60)
    answer = stack.http.post("/v1/search", json={"image": base64.b64encode(small.getvalue()).decode()})
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["name"] == by_words["name"]

    similar = stack.http.get(f"/v1/images/{by_words['name']}/similar").json()["data"]
    assert {hit["name"] for hit in similar} == {hit["name"] for hit in newest} - {by_words["name"]}

    pages: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = stack.http.get("/v1/search", params={"q": "an apple", "limit": 3, **cursor}).json()
        pages += [hit["name"] for hit in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert sorted(pages) == sorted(hit["name"] for hit in newest)

    # A file that is gone is not shown, and leaves the index.
    (file,) = (stack.folder / "blobs").rglob(newest[0]["name"])
    file.unlink()
    assert newest[0]["name"] not in {hit["name"] for hit in found(stack)}

    # What ends while the search is away arrives once it is back.
    stack.kill("search", signal.SIGKILL)
    stack.processes["search"].wait()
    late = stack.ended(stack.submit(prompt="a green pear"))
    assert stack.http.get("/v1/search").json()["error"]["code"] == "search_unavailable"
    start_search(stack)
    until(
        lambda: found(stack, q="a green pear") and found(stack, q="a green pear")[0]["job_id"] == late["id"],
        stack,
    )
    assert len(found(stack)) == len(PROMPTS)


def test_a_tenant_sees_its_own_images_alone(stack: Stack) -> None:
    def client(tenant: str) -> httpx.Client:
        key = stack.http.post("/v1/keys", json={"tenant": tenant}).json()["key"]
        return httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {key}"}, timeout=60)

    with client("one") as one, client("two") as two:
        drawn = one.post("/v1/jobs", json={"prompt": "a red apple"}, headers={"Prefer": "wait=60"}).json()
        assert drawn["status"] == "succeeded", drawn
        name = drawn["images"][0]["url"].rpartition("/")[2]
        until(lambda: found(stack, one, q="apple"), stack)
        assert not found(stack, two, q="apple")
        assert not found(stack, two)
        other = two.get(f"/v1/images/{name}/similar")
        assert (other.status_code, other.json()["error"]["code"]) == (404, "picture_not_indexed")


def test_an_index_is_built_again_from_the_records(stack: Stack, tmp_path: Path) -> None:
    for prompt in PROMPTS:
        stack.ended(stack.submit(prompt=prompt))
    until(lambda: len(found(stack)) == len(PROMPTS), stack)
    stack.kill("search", signal.SIGTERM)
    stack.processes["search"].wait()
    # Another index, which is empty: the process fills it from the records.
    stack.environ["DARKROOM_SEARCH_INDEX"] = f"embedded:{tmp_path / 'other'}"
    start_search(stack)
    until(lambda: len(found(stack)) == len(PROMPTS), stack)
    begun = stack.http.post("/v1/admin/search/rebuild")
    assert begun.status_code == 202, begun.text

    def rebuilt() -> bool:
        state = stack.http.get("/v1/admin/search").json()
        return state["rebuild"]["finished_at"] is not None and state["rebuild"]["records"] == len(PROMPTS)

    until(rebuilt, stack)
    assert len(found(stack)) == len(PROMPTS)


BAD_QUERIES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"limit": 0}, "limit"),
    ({"limit": 101}, "limit"),
    ({"q": "x" * 2001}, "q"),
    ({"like": "nothing"}, "like"),
    ({"q": "a", "like": "0" * 64 + ".png"}, "like"),
    ({"cursor": "none of ours"}, "cursor"),
    ({"source": "elsewhere"}, "source"),
    ({"colour": "red"}, "colour"),
)


def test_a_bad_query_is_refused_by_name(stack: Stack) -> None:
    until(lambda: stack.http.get("/v1/search").status_code == 200, stack)
    for query, param in BAD_QUERIES:
        answer = stack.http.get("/v1/search", params=query)
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, param), answer.text

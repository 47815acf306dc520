"""The routes of the search on a stand-in for the search process: what a client asks, and what it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from contracts.search import SearchAnswer
from tests.api.conftest import ADMIN, ApiUnderTest, Opener

pytestmark = pytest.mark.anyio

NAME = "0" * 64 + ".png"


class SearchProcess(ThreadingHTTPServer):
    """Answers every request with `answer`, and keeps the queries."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = SearchAnswer(hits=(), clip="c@1").model_dump_json()
        self.queries: list[dict[str, Any]] = []


class Handler(BaseHTTPRequestHandler):
    server: SearchProcess

    def do_POST(self) -> None:
        self.server.queries.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}"))
        self.do_GET()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.answer.encode())

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def process() -> Iterator[SearchProcess]:
    with SearchProcess() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
async def api(opened: Opener, process: SearchProcess) -> ApiUnderTest:
    return await opened(search_url=f"http://127.0.0.1:{process.server_port}")


@pytest.mark.parametrize(
    ("query", "param", "words"),
    [
        ({"limit": "abc"}, "limit", "an integer from 1 to 100"),
        ({"limit": ""}, "limit", "an integer from 1 to 100"),
        ({"seed": ""}, "seed", "an integer from 0 to 2^63 - 1"),
        ({"source": ""}, "source", "generated or imported"),
        ({"min_width": "1e3"}, "min_width", "an integer from 1 to 16384"),
        ({"created_after": "yesterday"}, "created_after", "a time in Unix seconds"),
        ({"model": ""}, "model", "a string of 1 to 200 characters"),
    ],
)
async def test_a_wrong_value_is_explained_in_our_words(
    api: ApiUnderTest, query: dict[str, str], param: str, words: str
) -> None:
    answer = await api.http.get("/v1/search", params=query)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (422, param)
    assert error["message"] == f"{param} must be {words}."


async def test_similar_explains_in_our_words_too(api: ApiUnderTest) -> None:
    answer = await api.http.get(f"/v1/images/{NAME}/similar", params={"limit": "abc"})
    assert answer.json()["error"]["message"] == "limit must be an integer from 1 to 100."


@pytest.mark.parametrize("body", [{"limit": True}, {"limit": "5"}, {"seed": "7"}, {"created_after": "1"}])
async def test_the_types_of_a_body_are_strict(
    api: ApiUnderTest, process: SearchProcess, body: dict[str, Any]
) -> None:
    answer = await api.http.post("/v1/search", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, *body)
    whole = await api.http.post("/v1/search", json={"limit": 5.0, "seed": 7, "created_after": 1})
    assert whole.status_code == 200, whole.text
    assert process.queries[-1]["limit"] == 5


async def test_a_name_that_is_none_is_not_found(api: ApiUnderTest, process: SearchProcess) -> None:
    answer = await api.http.get("/v1/images/nothing/similar")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "image_not_found")
    assert not process.queries
    assert (await api.http.get(f"/v1/images/{NAME}/similar")).status_code == 200
    assert process.queries[-1]["like"] == NAME


@pytest.mark.parametrize("answer", ["<html>It works!</html>", "{}", "[]", ""])
async def test_another_service_in_place_of_the_search_is_told(
    api: ApiUnderTest, process: SearchProcess, answer: str
) -> None:
    process.answer = answer
    for method, path in (
        ("GET", "/v1/search"),
        ("GET", "/v1/admin/search"),
        ("POST", "/v1/admin/search/rebuild"),
    ):
        response = await api.http.request(method, path, headers=ADMIN)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "search_unavailable")
        assert "DARKROOM_SEARCH_URL" in response.json()["error"]["message"]


@pytest.mark.parametrize("shared", [False, True])
async def test_a_query_names_the_scopes_of_the_caller(
    opened: Opener, process: SearchProcess, shared: bool
) -> None:
    url = f"http://127.0.0.1:{process.server_port}"
    api = await opened(search_url=url, share_cache_between_tenants=shared)
    assert (await api.http.get("/v1/search")).status_code == 200
    assert process.queries[-1]["scopes"] == ["public", ""]


async def test_a_click_counts_once_a_day_for_its_tenant(api: ApiUnderTest) -> None:
    click = {"query": "a  Rocket", "image": NAME}
    for _ in range(2):
        answer = await api.http.post("/v1/search/clicks", json=click)
        assert (answer.status_code, answer.content) == (204, b"")
    clicks = api.stores.clicks
    assert await clicks.counts("public", "a rocket") == {NAME: 1}
    assert await clicks.counts("acme", "a rocket") == {}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"query": "a rocket"}, "image"),
        ({"image": NAME}, "query"),
        ({"query": "", "image": NAME}, "query"),
        ({"query": "a" * 2001, "image": NAME}, "query"),
        ({"query": "a rocket", "image": "../etc/passwd"}, "image"),
        ({"query": "a rocket", "image": NAME + "\n"}, "image"),
        ({"query": "a rocket", "image": "0" + NAME}, "image"),
        ({"query": 7, "image": NAME}, "query"),
        ({"query": "a rocket", "image": NAME, "more": 1}, "more"),
    ],
)
async def test_a_click_that_is_none_is_refused(api: ApiUnderTest, body: dict[str, Any], param: str) -> None:
    answer = await api.http.post("/v1/search/clicks", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)


async def test_without_a_search_there_are_no_clicks(opened: Opener) -> None:
    api = await opened()
    answer = await api.http.post("/v1/search/clicks", json={"query": "a rocket", "image": NAME})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "search_off")


async def test_a_hit_says_whether_it_was_ranked_again(api: ApiUnderTest, process: SearchProcess) -> None:
    picture = {"scope": "public", "name": NAME, "created_at": 1, "expires_at": 2, "width": 1, "height": 1}
    why = {"rerank": {"rank": 1, "score": 0.5}, "clicks": {"rank": 1, "score": 0.2}}
    hits = [{"picture": picture, "score": 1, "why": why, **more} for more in ({}, {"reranked": False})]
    process.answer = json.dumps({"hits": hits})
    found = (await api.http.get("/v1/search")).json()["data"]
    assert [hit["reranked"] for hit in found] == [None, False]
    assert found[0]["why"] == why

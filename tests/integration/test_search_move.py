"""The move from an index in a folder to one on a server and back, while pictures are drawn and searched: nothing is missing."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from cli.services import process
from contracts.tenancy import new_token
from tests.integration.conftest import ROOT, Deploy, Stack
from tests.integration.searching import until
from tests.search.servers import SERVERS_OF_TESTS, redis_8

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SERVERS = ("postgres", *(("redis",) if redis_8() else ()))
"""Without Redis 8 here, the move to it is tested by `make test-newer`."""
BEFORE = 20
"""Pictures that each index must hold before the next move begins, beside those of the index before."""


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty server of a kind, as the setting names it."""
    SERVERS_OF_TESTS.stop()  # with what earlier tests have left there
    yield SERVERS_OF_TESTS.postgres().url() if request.param == "postgres" else SERVERS_OF_TESTS.redis().url
    SERVERS_OF_TESTS.stop()


class Load:
    """Draws pictures and searches, until the block ends."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._going = True
        self.drawn: dict[str, str] = {}
        """The names of the pictures by their jobs."""
        self.answers: dict[int, int] = {}
        """Searches by the status of their answers."""
        self.lost: list[str] = []
        """What went wrong beside a 503."""
        self._threads = [threading.Thread(target=work) for work in (self._draw, self._search)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._going = False
        for thread in self._threads:
            thread.join()

    def until(self, enough: int) -> None:
        """Until so many pictures are drawn."""
        until(lambda: len(self.drawn) >= enough, self._stack)

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self._stack.url, headers=self._stack.http.headers, timeout=90.0)

    def _draw(self) -> None:
        with self._client() as http:
            for number in itertools.count():
                if not self._going:
                    return
                body = {"prompt": f"a red apple, {number}"}
                job = http.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"}).json()
                if job.get("status") == "succeeded":
                    self.drawn[job["id"]] = job["images"][0]["url"].rpartition("/")[2]
                else:
                    self.lost.append(str(job))

    def _search(self) -> None:
        with self._client() as http:
            while self._going:
                answer = http.get("/v1/search", params={"q": "an apple", "limit": 10})
                self.answers[answer.status_code] = self.answers.get(answer.status_code, 0) + 1
                if answer.status_code not in (200, 503):
                    self.lost.append(answer.text)
                time.sleep(0.02)


def everything(http: httpx.Client) -> dict[str, str]:
    """The jobs and names of all pictures that a search finds."""
    found: dict[str, str] = {}
    cursor: dict[str, str] = {}
    while True:
        answer = http.get("/v1/search", params={"limit": 100, **cursor})
        if answer.status_code != 200:
            return {}
        page = answer.json()
        found |= {hit["job_id"]: hit["name"] for hit in page["data"]}
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


def holds(http: httpx.Client, drawn: dict[str, str]) -> bool:
    """Whether a search finds all these pictures."""
    return drawn.items() <= everything(http).items()


def moved(stack: Stack, index: str) -> float:
    """Seconds until the search process, started again on `index`, has been filled from the records."""
    begun = time.monotonic()
    stack.end("search")
    stack.start("search", "search", DARKROOM_SEARCH_INDEX=index)

    def filled() -> bool:
        with suppress(httpx.HTTPError):
            state: dict[str, Any] = stack.http.get("/v1/admin/search").json()
            last = state.get("rebuild")
            return bool(last and last["finished_at"] and not state["owed_jobs"])
        return False

    until(filled, stack)
    return time.monotonic() - begun


def test_nothing_is_missing_after_the_move_and_back(
    deploy: Deploy, server: str, tmp_path: Path, record_property: Any
) -> None:
    port = process.free_port()
    first, last = (f"embedded:{tmp_path / name}" for name in ("first", "last"))
    stack = deploy(
        rabbitmq=False,
        fake=False,
        DARKROOM_ADMIN_KEY=new_token(),
        DARKROOM_CLIP=str(ROOT / "models" / "emoji-clip"),
        DARKROOM_SEARCH_URL=f"http://127.0.0.1:{port}",
        DARKROOM_SEARCH_PORT=str(port),
        DARKROOM_SEARCH_INDEX=first,
    )
    stack.start("search", "search")
    until(lambda: stack.http.get("/v1/search").status_code == 200, stack)
    seconds = {}
    with Load(stack) as load:
        for name, index in (("there", server), ("back", last)):
            enough = len(load.drawn) + BEFORE
            load.until(enough)
            seconds[name] = moved(stack, index)
            during = dict(load.drawn)
            until(partial(holds, stack.http, during), stack)
        enough = len(load.drawn) + BEFORE
        load.until(enough)
    assert not load.lost
    assert load.answers[200]
    until(lambda: everything(stack.http) == load.drawn, stack)
    record_property("move", {"drawn": len(load.drawn), "seconds": seconds, "searches": load.answers})

"""Every route of real processes is tried for a held picture: with a search that finds by words, likeness and meaning, webhooks,
and logs that hide nothing.

`tests/held_routes.py` says how each route is asked. At the end the picture is released: then the same questions show it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import httpx
import pytest

from cli.services import process
from contracts.tenancy import new_token
from search.clip import ClipModel
from search.golden import fitted
from tests.held_routes import BY_CONTENT, BY_REQUEST, ROUTES, Ask, HeldPicture
from tests.integration.conftest import ROOT, Stack
from tests.integration.searching import until
from tests.webhooks.conftest import Receiver, receiving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

REVIEWS: Final = "/v1/admin/moderation/reviews"
CLIP: Final = str(ROOT / "models" / "emoji-clip")
POLICY: Final = """
name: house
version: 1
words: {lists: [{file: 'builtin:lists/weapons.en.txt', category: weapons, language: en}]}
rules: {weapons: {words: review}}
"""
REQUEST: Final[dict[str, Any]] = {"prompt": "a sword made of jade", "seed": 7}
SHOWN: Final = ("a red apple", "an umbrella", "a hammer")
TTL_S: Final = "20"
"""OpenAI's route waits so long for a reviewer."""


class Desk:
    """The platform, one held picture, and everybody who may ask for it."""

    def __init__(self, stack: Stack, receiver: Receiver) -> None:
        self.stack = stack
        self.receiver = receiver
        self.reviewer = {"X-API-Key": stack.key("desk", scopes=["moderate"])}
        self.callers = {
            "owner": {"X-API-Key": stack.key("owner-tenant")},
            "stranger": {"X-API-Key": stack.key("stranger-tenant")},
            "admin": {"X-API-Key": stack.key("admin-tenant", scopes=["generate", "admin"])},
        }
        self.http = httpx.Client(base_url=stack.url, timeout=90.0)
        job = self.draw(REQUEST | {"webhook": {"url": receiver.url}})
        assert job["images"][0]["moderation"]["verdict"] == "in_review", job
        # What is drawn later is found before anybody asks: the index has had its chance.
        for prompt in SHOWN:
            self.draw({"prompt": prompt})
        newest = Ask("GET", "/v1/search?limit=100")
        until(lambda: len(self.send(newest, "owner").json().get("data", ())) >= len(SHOWN), stack)
        (review,) = self.http.get(REVIEWS, headers=self.reviewer).json()["data"]
        picture = self.http.get(f"{REVIEWS}/{review['name']}/picture", headers=self.reviewer)
        self.held = HeldPicture(review["name"], job["id"], REQUEST, picture.content)

    def send(self, ask: Ask, caller: str) -> httpx.Response:
        words = ask.words
        words["headers"] |= self.callers[caller]
        return self.http.request(**words)

    def draw(self, body: Any) -> dict[str, Any]:
        answer = self.send(Ask("POST", "/v1/jobs", body, {"Prefer": "wait=60"}), "owner")
        job: dict[str, Any] = answer.json()
        assert job["status"] == "succeeded", (job, self.stack.logs())
        return job

    def logs(self) -> str:
        """All that every process has written."""
        return "".join(path.read_text() for path in sorted(self.stack.folder.glob("*/output.log")))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, redis_server: Any) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("routes")
    (folder / "policy.yaml").write_text(POLICY)
    port = process.free_port()
    environ = {
        "DARKROOM_ADMIN_KEY": new_token(),
        "DARKROOM_CLIP": CLIP,
        "DARKROOM_MODERATION": str(folder / "policy.yaml"),
        "DARKROOM_SEARCH_URL": f"http://127.0.0.1:{port}",
        "DARKROOM_SEARCH_PORT": str(port),
        "DARKROOM_SEARCH_INDEX": f"embedded:{folder / 'index'}",
        "DARKROOM_SIMILAR_FLOOR": str(fitted(ClipModel(CLIP).texts).floor),
        "DARKROOM_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
        "DARKROOM_LOG_LEVEL": "debug",
        "DARKROOM_JOB_TTL_S": TTL_S,
    }
    with (
        receiving() as receiver,
        Stack.open(environ, folder, redis_server, broker=False, webhooks=True) as stack,
    ):
        stack.start("search", "search")
        made = Desk(stack, receiver)
        yield made
        made.http.close()


@pytest.mark.parametrize("route", ROUTES)
def test_no_route_shows_it(desk: Desk, route: str) -> None:
    for caller in ("owner",) if route in BY_REQUEST else desk.callers:
        for ask in ROUTES[route](desk.held):
            answer = desk.send(ask, caller)
            told = answer.text.replace(desk.held.name, "", ask.path.count(desk.held.name))
            assert not any(secret in told for secret in desk.held.secrets()), (caller, ask)
            assert desk.held.file not in answer.content
            if route in BY_CONTENT:
                assert answer.status_code in (200, 404), (caller, ask, answer.text)
                hits = answer.json().get("data", ())
                assert REQUEST["prompt"] not in {hit["prompt"] for hit in hits}, (caller, ask)
    states = [each["state"] for each in desk.http.get(REVIEWS, headers=desk.reviewer).json()["data"]]
    assert states.count("waiting") >= 1, "none of them has decided anything"


def test_its_webhook_does_not_have_it(desk: Desk) -> None:
    desk.receiver.wait_for(1)
    for headers, body in list(desk.receiver.requests):
        assert not any(secret in body.decode() + str(headers) for secret in desk.held.secrets())
    assert json.loads(desk.receiver.requests[0][1])["data"]["images"][0]["url"] is None


def test_no_log_has_it_at_any_level(desk: Desk) -> None:
    """Nor its prompt. The routes above were asked for its name, and reviewers have opened it."""
    written = desk.logs()
    assert "debug" in written
    assert "admin_call" in written
    lines = [line for line in written.splitlines() if desk.held.name.partition(".")[0] in line]
    lines += [line for line in written.splitlines() if REQUEST["prompt"] in line]
    assert lines == []


def test_once_it_is_released_the_same_questions_show_it(desk: Desk) -> None:
    """Else the tests above would ask for what nobody can find."""
    name = desk.held.name
    desk.http.post(f"{REVIEWS}/{name}/release", headers=desk.reviewer).raise_for_status()
    assert desk.send(Ask("GET", f"/v1/images/{name}"), "stranger").content == desk.held.file
    for route in ("GET /v1/jobs", "GET /v1/jobs/{job_id}", "GET /v1/jobs/{job_id}/events"):
        assert name in desk.send(ROUTES[route](desk.held)[0], "owner").text, route

    def found(ask: Ask) -> bool:
        return name in re.findall(r'"name":"([^"]+)"', desk.send(ask, "owner").text)

    for ask in (*ROUTES["GET /v1/search"](desk.held), *ROUTES["POST /v1/search"](desk.held)):
        # Nothing is like itself.
        if "like" not in f"{ask.path}{list(ask.json or ())}":
            until(partial(found, ask), desk.stack)
    desk.receiver.wait_for(2)
    assert name in desk.receiver.requests[1][1].decode()

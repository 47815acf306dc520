"""Every route is tried for a held picture. It answers as for one that was never drawn, to the byte and to the call of a store.

`tests/held_routes.py` says how each route is asked. `tests/integration/test_held_routes.py` asks the same of real processes.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import pkgutil
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import redis.asyncio
from redis.asyncio.client import Pipeline
from structlog.testing import capture_logs

import api.routes
from backends.blobs import DirectoryBlobStore
from contracts.ids import new_job_id
from contracts.reviews import ReviewState
from runtime.tasks import end
from tests.api.conftest import ADMIN, ApiUnderTest, Opener
from tests.api.held import REVIEWS, drawn, file_of, listed, moderator
from tests.api.test_search import SearchProcess, process
from tests.held_routes import BY_NAME, BY_REQUEST, ROUTES, Ask, HeldPicture

pytestmark = pytest.mark.anyio

__all__ = ["process"]

POLICY: Final = """
name: house
version: 3
rules: {weapons: {hashes: review}}
"""
REQUEST: Final = {"prompt": "a red apple", "seed": 7}
CALLERS: Final = ("owner", "stranger", "admin")
"""The tenant whose job drew it, another tenant, and an administrator without the scope `moderate`."""
OWNERS_OWN: Final = "POST /v1/images/{name}/appeal"
"""The one route that tells the owner of a held picture more than it tells a stranger."""
STORE_CALLS: ContextVar[list[str] | None] = ContextVar("STORE_CALLS", default=None)
"""The calls of stores that the request of this context has led to."""


class Tried:
    """An API with one held picture, a picture that was never drawn, and three callers."""

    def __init__(self, api: ApiUnderTest, held: HeldPicture, callers: Mapping[str, dict[str, str]]) -> None:
        self.api = api
        self.held = held
        self.callers = callers
        self.absent = HeldPicture(
            name=hashlib.sha256(b"never drawn").hexdigest() + ".png",
            job_id=new_job_id(api.clock.now(), "a"),
            request={"prompt": "a blue apple", "seed": 8},
        )

    async def send(self, ask: Ask, caller: str) -> httpx.Response:
        words = ask.words
        words["headers"] |= self.callers[caller]
        return await self.api.http.request(**words)

    async def trace(self, ask: Ask, caller: str, name: str) -> tuple[Any, ...]:
        """What tells one answer from another: status, headers, size, text, and the calls of stores."""
        with counted() as calls:
            answer = await self.send(ask, caller)
        own = {key: value for key, value in answer.headers.items() if key not in ("x-request-id", "date")}
        digest = name.partition(".")[0]
        text = re.sub(r'"request_id": ?"[^"]*"', "", answer.text).replace(digest, "NAME")
        return answer.status_code, own, len(answer.content), text, calls


@contextmanager
def counted() -> Iterator[list[str]]:
    calls: list[str] = []
    token = STORE_CALLS.set(calls)
    try:
        yield calls
    finally:
        STORE_CALLS.reset(token)


@pytest.fixture(autouse=True)
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes each command that goes to Redis, and each call of the store of files, with the number of its arguments."""

    def noted(owner: type, method: str, told: Any) -> None:
        real = getattr(owner, method)

        def call(self: Any, *given: Any, **named: Any) -> Any:
            calls = STORE_CALLS.get()
            if calls is not None:
                calls += told(self, given)
            return real(self, *given, **named)

        monkeypatch.setattr(owner, method, call)

    noted(redis.asyncio.Redis, "execute_command", lambda _, given: [f"{given[0]} {len(given)}"])
    noted(
        Pipeline, "execute", lambda self, _: [f"{each[0][0]} {len(each[0])}" for each in self.command_stack]
    )
    for method in ("get", "exists", "put", "delete"):
        noted(DirectoryBlobStore, method, lambda _, given, method=method: [f"file {method} {len(given)}"])


@pytest.fixture
async def tried(opened: Opener, process: SearchProcess, tmp_path: Path) -> AsyncIterator[Tried]:
    """A worker beside it holds every image that is drawn."""
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    search = f"http://127.0.0.1:{process.server_port}"
    api = await opened(
        moderation=path, job_ttl_s=2.0, search_url=search, webhook_allow_networks="127.0.0.0/8"
    )

    async def draw() -> None:
        done = 0
        while True:
            for message in api.publisher.published[done:]:
                await drawn(api, message=message)
                done += 1
            await asyncio.sleep(0.005)

    worker = asyncio.create_task(draw())
    keys = {}
    for name, scopes in (("stranger", ["generate"]), ("admin", ["generate", "admin"])):
        new = {"tenant": f"{name}-tenant", "scopes": scopes}
        made = await api.http.post("/v1/keys", json=new, headers=ADMIN)
        assert made.status_code == 201, made.text
        keys[name] = {"X-API-Key": made.json()["key"]}
    body = {**REQUEST, "webhook": {"url": "http://127.0.0.1:9/hook"}}
    answer = await api.http.post("/v1/jobs", json=body, headers={"Prefer": "wait=10"})
    (review,) = await listed(api, await moderator(api))
    file = file_of(api.publisher.published[0], 0)
    assert review["name"] == hashlib.sha256(file).hexdigest() + ".png"
    held = HeldPicture(review["name"], answer.json()["id"], REQUEST, file)
    yield Tried(api, held, {"owner": {}, **keys})
    await end(worker)


def declared() -> set[str]:
    """Every route of every module of routes, also those that the OpenAPI document leaves out."""
    found = set()
    for module in pkgutil.iter_modules(api.routes.__path__):
        router = getattr(importlib.import_module(f"api.routes.{module.name}"), "router", None)
        for route in getattr(router, "routes", ()):
            # What OpenAI has and we have not is refused by every method alike.
            methods = {"POST"} if len(route.methods) > 4 else route.methods - {"HEAD"}
            path = route.path.replace(":path}", "}")
            found |= {f"{method} {path}" for method in methods}
    return found


async def test_every_route_has_been_thought_of(tried: Tried) -> None:
    document = (await tried.api.http.get("/openapi.json")).json()
    documented = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods
        if method in ("get", "post", "put", "patch", "delete")
    }
    assert declared() | documented == set(ROUTES)


@pytest.mark.parametrize("route", ROUTES)
async def test_no_answer_has_it(tried: Tried, route: str) -> None:
    asked = {caller: ROUTES[route](tried.held) for caller in CALLERS}
    if route in BY_REQUEST:  # others have no job of their own to ask again for
        asked = {"owner": asked["owner"]}
    for caller, asks in asked.items():
        for ask in asks:
            answer = await tried.send(ask, caller)
            told = answer.text.replace(tried.held.name, "", ask.path.count(tried.held.name))
            for secret in (*tried.held.secrets(), "head@1"):
                assert secret not in told, (caller, ask)
            assert tried.held.file not in answer.content
            assert answer.status_code != 500, (caller, ask, answer.text)
    review, *_ = await tried.api.stores.reviews.find(tried.held.name)
    assert review.state is ReviewState.WAITING, "none of them has decided anything"


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("route", BY_NAME)
async def test_a_held_picture_cannot_be_told_from_one_that_was_never_drawn(
    tried: Tried, route: str, caller: str
) -> None:
    """By status, headers, size, text, and by what is looked up meanwhile: so by the time that it takes, too."""
    pairs = zip(ROUTES[route](tried.held), ROUTES[route](tried.absent), strict=True)
    for ask, other in pairs:
        # The first call of a kind may look up what later ones remember.
        await tried.send(other, caller)
        there = await tried.trace(ask, caller, tried.held.name)
        nowhere = await tried.trace(other, caller, tried.absent.name)
        if (route, caller) == (OWNERS_OWN, "owner"):
            assert (there[0], nowhere[0]) == (202, 404)
        else:
            assert there == nowhere, (ask, other)


@pytest.mark.parametrize("path", ["", "/picture"])
async def test_the_log_has_who_opened_it_and_not_its_name(tried: Tried, path: str) -> None:
    headers = await moderator(tried.api, "Bob")
    whole = f"{REVIEWS}/{tried.held.name}{path}"
    with capture_logs() as logs:
        assert (await tried.api.http.get(whole, headers=headers)).status_code == 200
    (line,) = [each for each in logs if each["event"] == "admin_call"]
    digest = tried.held.name.partition(".")[0]
    assert line["path"] == whole.replace(digest, f"{digest[:12]}*")
    assert line["key_id"] == headers["X-API-Key"][:11]


async def test_the_calls_of_stores_are_counted(tried: Tried) -> None:
    """Else the test above would compare nothing with nothing."""
    with counted() as calls:
        await tried.api.http.get(f"/v1/images/{tried.held.name}")
        await tried.api.http.get(f"/v1/jobs/{tried.held.job_id}")
    assert "file get 1" in calls
    assert any(call.startswith("EVALSHA") for call in calls), calls

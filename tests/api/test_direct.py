"""The short way to a submit: whatever is asked, the answer is that of the framework's own way."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from starlette.routing import NoMatchFound

from api.direct import Direct, header
from api.routes import jobs
from tests.api.conftest import ADMIN_KEY, Door, Opener

pytestmark = pytest.mark.anyio

BODY = json.dumps({"prompt": "a red apple", "seed": 7}).encode()
JSON = {"Content-Type": "application/json"}
QUESTIONS: list[tuple[dict[str, str], bytes]] = [
    (JSON, BODY),
    ({**JSON, "Authorization": f"Bearer {ADMIN_KEY}"}, BODY),
    ({**JSON, "authorization": f"bearer {ADMIN_KEY}"}, BODY),
    ({**JSON, "Authorization": f"Basic {ADMIN_KEY}"}, BODY),
    ({**JSON, "Authorization": ""}, BODY),
    ({**JSON, "Authorization": "Bearer dk_" + "B" * 43}, BODY),
    ({**JSON, "X-API-Key": ADMIN_KEY}, BODY),
    ({**JSON, "X-API-Key": ""}, BODY),
    ({**JSON, "X-API-Key": "dk_wrong", "Authorization": f"Bearer {ADMIN_KEY}"}, BODY),
    ({**JSON, "Idempotency-Key": ""}, BODY),
    ({**JSON, "Idempotency-Key": "k" * 1000}, BODY),
    ({**JSON, "Idempotency-Key": "once"}, BODY),
    ({**JSON, "Accept": "image/webp"}, BODY),
    ({**JSON, "Content-Length": "99999999"}, BODY),
    ({"Content-Type": "text/plain"}, BODY),
    ({}, BODY),
    (JSON, b""),
    (JSON, b"{"),
    (JSON, b'{"prompt": 1, "width": "x"}'),
]


def is_direct(route: Any) -> bool:
    return isinstance(route, Direct)


async def pair(opened: Opener, **settings: Any) -> tuple[Door, Door]:
    """A door with the short way, and one without."""
    short, long = await opened(**settings), await opened(**settings)
    transport: Any = long.http._transport
    router = transport.app.router
    assert any(is_direct(route) for route in router.routes)
    router.routes = [route for route in router.routes if not is_direct(route)]
    return short, long


def told(response: httpx.Response) -> tuple[int, Any, dict[str, str]]:
    """An answer without what differs from request to request."""
    body = response.json()
    for name in ("id", "created_at", "started_at", "finished_at", "urls", "queue_position", "eta_seconds"):
        body.pop(name, None)
    if body.get("error"):
        body["error"].pop("request_id")
    varying = {"x-request-id", "location", "content-length"}
    return response.status_code, body, {k: v for k, v in response.headers.items() if k not in varying}


@pytest.mark.parametrize("allow_anonymous", [True, False])
async def test_both_ways_answer_alike(opened: Opener, allow_anonymous: bool) -> None:
    short, long = await pair(opened, allow_anonymous=allow_anonymous)
    statuses = set()
    for headers, body in QUESTIONS:
        answers = [
            told(await door.http.post("/v1/jobs", content=body, headers=headers)) for door in (short, long)
        ]
        assert answers[0] == answers[1], headers
        statuses.add(answers[0][0])
    assert statuses >= ({202, 400, 413, 415, 422} if allow_anonymous else {202, 401})


async def test_a_hit_is_alike_too(opened: Opener) -> None:
    answers = []
    for door in await pair(opened):
        await door.submit(seed=7)
        await door.work()
        response = await door.http.post("/v1/jobs", content=BODY, headers=JSON)
        assert (response.status_code, response.headers["x-cache"]) == (200, "hit")
        answers.append(told(response))
    assert answers[0] == answers[1]


async def test_other_methods_and_paths_go_the_way_of_the_framework(door: Door) -> None:
    assert (await door.http.get("/v1/jobs")).json()["data"] == []
    refused = await door.http.put("/v1/jobs", content=BODY, headers=JSON)
    assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")
    assert (await door.http.post("/v1/jobs/", content=BODY, headers=JSON)).status_code == 404


async def test_it_is_counted_under_its_path(door: Door) -> None:
    await door.submit()
    assert 'method="POST",route="/v1/jobs"' in (await door.http.get("/metrics")).text


def test_it_has_no_name_and_takes_requests_alone() -> None:
    with pytest.raises(NoMatchFound):
        jobs.direct.url_path_for("submit")
    assert jobs.direct.matches({"type": "websocket", "path": "/v1/jobs"})[0].value == 0


def test_the_first_of_equal_headers_counts() -> None:
    scope = {"headers": [(b"a", b"1"), (b"b", b"2"), (b"b", b"3")]}
    assert (header(scope, b"b"), header(scope, b"c")) == ("2", None)

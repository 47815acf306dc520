"""The route of submits, which takes the bare request: what the framework would have checked, it checks itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.fast_route import FastRoute, header
from api.routes import jobs
from tests.api.conftest import ADMIN_KEY, ApiUnderTest, Opener

pytestmark = pytest.mark.anyio

BODY = json.dumps({"prompt": "a red apple", "seed": 7}).encode()
JSON = {"Content-Type": "application/json"}
MISSING = 401, "missing_api_key"
QUESTIONS: list[tuple[dict[str, str], bytes, tuple[int, str], tuple[int, str]]] = [
    # Headers, body, what a server for everybody answers, and one that wants a key.
    (JSON, BODY, (202, ""), MISSING),
    ({**JSON, "Authorization": f"Bearer {ADMIN_KEY}"}, BODY, (202, ""), (202, "")),
    ({**JSON, "authorization": f"bearer {ADMIN_KEY}"}, BODY, (202, ""), (202, "")),
    ({**JSON, "Authorization": f"Basic {ADMIN_KEY}"}, BODY, (202, ""), MISSING),
    ({**JSON, "Authorization": ""}, BODY, (202, ""), MISSING),
    (
        {**JSON, "Authorization": "Bearer dk_" + "B" * 43},
        BODY,
        (401, "invalid_api_key"),
        (401, "invalid_api_key"),
    ),
    ({**JSON, "X-API-Key": ADMIN_KEY}, BODY, (202, ""), (202, "")),
    ({**JSON, "X-API-Key": ""}, BODY, (202, ""), MISSING),
    ({**JSON, "X-API-Key": "dk_wrong", "Authorization": f"Bearer {ADMIN_KEY}"}, BODY, (202, ""), (202, "")),
    ({**JSON, "Idempotency-Key": ""}, BODY, (422, "invalid_request"), (422, "invalid_request")),
    ({**JSON, "Idempotency-Key": "k" * 256}, BODY, (422, "invalid_request"), (422, "invalid_request")),
    ({**JSON, "Idempotency-Key": "k" * 255}, BODY, (202, ""), MISSING),
    ({**JSON, "Accept": "image/webp"}, BODY, (202, ""), MISSING),
    ({**JSON, "Content-Length": "99999999"}, BODY, (413, "payload_too_large"), MISSING),
    ({"Content-Type": "text/plain"}, BODY, (415, "unsupported_media_type"), MISSING),
    ({}, BODY, (415, "unsupported_media_type"), MISSING),
    (JSON, b"", (400, "malformed_body"), MISSING),
    (JSON, b"{", (400, "malformed_body"), MISSING),
    (JSON, b'{"prompt": 1, "width": "x"}', (422, "invalid_request"), MISSING),
]


@pytest.mark.parametrize("allow_anonymous", [True, False])
async def test_what_it_answers(opened: Opener, allow_anonymous: bool) -> None:
    api = await opened(allow_anonymous=allow_anonymous)
    for headers, body, everybody, with_key in QUESTIONS:
        response = await api.http.post("/v1/jobs", content=body, headers=headers)
        error = response.json().get("error") or {}
        wanted = everybody if allow_anonymous else with_key
        assert (response.status_code, error.get("code", "")) == wanted, headers


async def test_a_parameter_in_the_query_is_refused(api: ApiUnderTest) -> None:
    response = await api.http.post("/v1/jobs?wait=5", content=BODY, headers=JSON)
    assert (response.status_code, response.json()["error"]["param"]) == (422, "wait")


async def test_it_is_registered_once_and_described_whole(api: ApiUnderTest) -> None:
    transport: Any = api.http._transport
    routes = [route for route in transport.app.routes if getattr(route, "path", "") == "/v1/jobs"]
    assert routes == [jobs.direct]
    assert isinstance(jobs.direct, FastRoute)
    included = [(getattr(each, "path", ""), getattr(each, "methods", ())) for each in jobs.router.routes]
    assert not any(path == "/v1/jobs" and "POST" in methods for path, methods in included)
    described = (await api.http.get("/openapi.json")).json()["paths"]["/v1/jobs"]["post"]
    assert {each["name"] for each in described["parameters"]} == {"Accept", "Prefer", "idempotency-key"}
    assert described["operationId"] == "submit_v1_jobs_post"
    assert {"200", "202", "401", "422", "503"} <= described["responses"].keys()
    assert described["requestBody"]["required"]


async def test_other_methods_and_paths_go_the_way_of_the_framework(api: ApiUnderTest) -> None:
    assert (await api.http.get("/v1/jobs")).json()["data"] == []
    refused = await api.http.put("/v1/jobs", content=BODY, headers=JSON)
    assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")
    assert (await api.http.post("/v1/jobs/", content=BODY, headers=JSON)).status_code == 404


async def test_it_is_counted_under_its_path(api: ApiUnderTest) -> None:
    await api.submit()
    assert 'method="POST",route="/v1/jobs"' in (await api.http.get("/metrics")).text


def test_it_takes_requests_alone() -> None:
    assert jobs.direct.matches({"type": "websocket", "path": "/v1/jobs"})[0].value == 0


def test_the_first_of_equal_headers_counts() -> None:
    scope = {"headers": [(b"a", b"1"), (b"b", b"2"), (b"b", b"3")]}
    assert (header(scope, b"b"), header(scope, b"c")) == ("2", None)

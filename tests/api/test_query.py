"""Query parameters that a route does not read are refused, on every route of the API."""

from __future__ import annotations

import pytest

from tests.api.conftest import ADMIN, ApiUnderTest

pytestmark = pytest.mark.anyio

JOB = "job_01m891b1nwt5m8j8181g2t3n06b"


async def test_a_filter_that_is_not_offered_is_refused_by_name(api: ApiUnderTest) -> None:
    response = await api.http.get("/v1/jobs?status=failed&nonsense=1&limit=3")
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (422, "invalid_request", "status")
    assert error["message"] == "status is not a known query parameter; known are limit, after, tenant."
    assert [fault["param"] for fault in error["details"]["faults"]] == ["status", "nonsense"]
    assert (await api.http.get("/v1/jobs?limit=3")).status_code == 200


async def test_a_slip_is_put_right(api: ApiUnderTest) -> None:
    error = (await api.http.get("/v1/jobs?limits=3")).json()["error"]
    assert error["message"].endswith("Did you mean limit?")
    error = (await api.http.post("/v1/jobs", json={"prompt": "a", "heigth": 64})).json()["error"]
    assert error["param"] == "heigth"
    assert error["message"].endswith("Did you mean height?")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/jobs"),
        ("POST", "/v1/jobs:batch"),
        ("GET", f"/v1/jobs/{JOB}"),
        ("POST", f"/v1/jobs/{JOB}/cancel"),
        ("GET", f"/v1/jobs/{JOB}/events"),
        ("GET", f"/v1/jobs/{JOB}/webhook"),
        ("POST", "/v1/images/generations"),
        ("GET", f"/v1/images/{'0' * 64}.png"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/m"),
        ("GET", "/v1/cache"),
        ("DELETE", "/v1/cache"),
        ("GET", "/v1/keys"),
        ("POST", "/v1/keys"),
        ("DELETE", "/v1/keys/abcdefgh"),
    ],
)
async def test_every_route_of_the_api_does_so(api: ApiUnderTest, method: str, path: str) -> None:
    response = await api.http.request(
        method, f"{path}?nonsense=1", headers=ADMIN, json={"prompt": "a"} if method == "POST" else None
    )
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (422, "invalid_request", "nonsense")


async def test_the_list_above_is_whole(api: ApiUnderTest) -> None:
    paths = (await api.http.get("/openapi.json")).json()["paths"]
    for path, operations in paths.items():
        if path.startswith("/v1/"):
            for method in operations:
                address = path.replace("{job_id}", JOB).replace("{", "").replace("}", "")
                response = await api.http.request(method, f"{address}?nonsense=1", headers=ADMIN)
                assert response.status_code == 422, (method, path)
                assert response.json()["error"]["param"] == "nonsense", (method, path)


async def test_a_strange_name_can_be_repeated(api: ApiUnderTest) -> None:
    error = (await api.http.get("/v1/models?%ff%00=1&" + "x" * 500)).json()["error"]
    assert error["code"] == "invalid_request"
    assert error["message"].endswith("there is none here.")
    assert max(len(fault["param"]) for fault in error["details"]["faults"]) <= 64


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/", "/docs", "/openapi.json"])
async def test_probes_and_pages_pass_over_them(api: ApiUnderTest, path: str) -> None:
    assert (await api.http.get(f"{path}?nonsense=1")).status_code == 200

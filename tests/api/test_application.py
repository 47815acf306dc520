"""The layers around a request: ours, and of the framework's those that do something."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import ApiUnderTest

pytestmark = pytest.mark.anyio


def app_of(api: ApiUnderTest) -> Any:
    return api.http._transport.app  # type: ignore[attr-defined]


def layers(app: Any) -> list[str]:
    app, names = app.build_middleware_stack(), []
    while app is not None:
        names.append(type(app).__name__)
        app = getattr(app, "_app", None) or getattr(app, "app", None)
        if names[-1] == "APIRouter":
            break
    return names


async def test_a_request_passes_no_layer_that_does_nothing(api: ApiUnderTest) -> None:
    names = layers(app_of(api))
    assert names[0] == "RequestContext"
    assert names[-3:] == ["ExceptionMiddleware", "AsyncExitStackMiddleware", "APIRouter"]
    assert not {"ServerErrorMiddleware", "ExceptionTelemetryMiddleware", "AppBodyLimitMiddleware"} & set(
        names
    )


async def test_what_nobody_foresaw_is_a_500_in_our_shape(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a secret prompt")

    jobs = app_of(api).state.services.jobs
    monkeypatch.setattr(jobs, "submit", broken)
    monkeypatch.setattr(jobs, "cancel", broken)
    job_id = "job_" + "0" * 27
    for path, body in (("/v1/jobs", {"prompt": "a red apple"}), (f"/v1/jobs/{job_id}/cancel", None)):
        answer = await api.http.post(path, json=body)
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "internal_error"
        assert "secret" not in answer.text
        assert answer.headers["x-request-id"] == answer.json()["error"]["request_id"]


async def test_every_route_has_its_errors_at_zero_from_the_start(api: ApiUnderTest) -> None:
    """`increase()` does not see a series whose first value is 1."""
    told = (await api.http.get("/metrics")).text
    for method, path in (("GET", "/v1/jobs/{job_id}"), ("POST", "/v1/jobs"), ("GET", "/v1/search")):
        assert f'http_requests_total{{method="{method}",route="{path}",status="503"}}' in told

"""Whatever a client sends: 4xx in one shape that names the field, and nothing queued."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.conftest import ApiUnderTest, Opener

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}


def check_shape(response: Any) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"code", "message", "type", "param", "request_id", "details"}
    assert error["request_id"] == response.headers["x-request-id"]
    return error


@pytest.mark.parametrize(
    ("changes", "param", "says"),
    [
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": " \t\n "}, "prompt", "empty"),
        ({"prompt": None}, "prompt", "a string"),
        ({"prompt": 7}, "prompt", "a string"),
        ({"prompt": ["a"]}, "prompt", "a string"),
        ({"prompt": "x" * 2001}, "prompt", "2000"),
        ({"prompt": "a\x00b"}, "prompt", "U+0000"),
        ({"prompt": "a\x1bb"}, "prompt", "U+001B"),
        ({"negative_prompt": "x" * 2001}, "negative_prompt", "2000"),
        ({"width": 8}, "width", "between 32 and 96"),
        ({"width": 100_000}, "width", "between 32 and 96"),
        ({"width": 65}, "width", "multiple of 16"),
        ({"width": 64.5}, "width", "an integer"),
        ({"width": "64"}, "width", "an integer"),
        ({"width": True}, "width", "an integer"),
        ({"height": -64}, "height", "between"),
        ({"num_inference_steps": 0}, "num_inference_steps", "between 1 and 4"),
        ({"num_inference_steps": 10**30}, "num_inference_steps", "between 1 and 4"),
        ({"width": 10**400}, "width", "between 32 and 96"),
        ({"guidance_scale": -1}, "guidance_scale", "between 0 and 7.5"),
        ({"guidance_scale": "much"}, "guidance_scale", "finite number"),
        ({"seed": -1}, "seed", "between 0 and 9007199254740991"),
        ({"seed": 2**53}, "seed", "between 0 and 9007199254740991"),
        ({"seed": 1.5}, "seed", "integer"),
        ({"seed": "fixed"}, "seed", "random"),
        ({"seed": True}, "seed", "integer"),
        ({"num_images": 0}, "num_images", "between 1 and 4"),
        ({"num_images": 5}, "num_images", "between 1 and 4"),
        ({"output_format": "gif"}, "output_format", "png, jpeg or webp"),
        ({"output_format": "PNG"}, "output_format", "png, jpeg or webp"),
        ({"output_quality": 0}, "output_quality", "between 1 and 100"),
        ({"output_quality": 101}, "output_quality", "between 1 and 100"),
        ({"output_quality": "high"}, "output_quality", "an integer"),
        ({"lossless": 1}, "lossless", "true or false"),
        ({"lossless": True, "output_format": "jpeg"}, "lossless", "jpeg"),
        ({"embed_metadata": "yes"}, "embed_metadata", "true or false"),
        ({"model": ""}, "model", ""),
        ({"model": "x" * 201}, "model", "200"),
        ({"steps": 3}, "steps", "known are prompt"),
    ],
)
async def test_a_wrong_value_is_named_with_its_limit(
    api: ApiUnderTest, changes: dict[str, Any], param: str, says: str
) -> None:
    response = await api.http.post("/v1/jobs", json={"prompt": "a red apple", **changes})
    error = check_shape(response)
    assert response.status_code in (404, 422)
    assert error["param"] == param
    assert says in error["message"]
    if response.status_code == 422:
        assert error["details"]["faults"][0] == {"param": param, "message": error["message"]}
    assert api.publisher.published == []
    assert await api.stores.jobs.list("public", 5) == []


async def test_prompts_that_a_jpegs_metadata_cannot_hold_are_refused(opened: Opener) -> None:
    """Its segment of 64 KiB counts in UTF-16: an emoji is four bytes, whatever the body's limit counts."""
    api = await opened(max_prompt_chars=40_000, max_body_bytes=400_000)
    long = {"prompt": "🍎" * 10_000, "negative_prompt": "x" * 10_000, "embed_metadata": True}
    assert (await api.http.post("/v1/jobs", json={**long, "output_format": "jpeg"})).status_code == 202
    over = {**long, "negative_prompt": "x" * 10_001}
    response = await api.http.post("/v1/jobs", json={**over, "output_format": "jpeg"})
    error = check_shape(response)
    assert (response.status_code, error["param"]) == (422, "embed_metadata")
    assert "60000 bytes" in error["message"]
    for changes in (
        {"output_format": "png"},
        {"output_format": "webp"},
        {"output_format": "jpeg", "embed_metadata": False},
    ):
        assert (await api.http.post("/v1/jobs", json={**over, **changes})).status_code == 202, changes


async def test_a_whole_number_is_an_integer_however_it_is_written(api: ApiUnderTest) -> None:
    response = await api.http.post(
        "/v1/jobs", content=b'{"prompt": "a", "width": 64.0, "seed": 7e0}', headers=JSON
    )
    assert response.status_code == 202
    assert (response.json()["request"]["width"], response.json()["request"]["seed"]) == (64, 7)


async def test_all_faults_are_listed_at_once(api: ApiUnderTest) -> None:
    response = await api.http.post("/v1/jobs", json={"prompt": "", "width": 1, "seed": -1})
    faults = check_shape(response)["details"]["faults"]
    assert [fault["param"] for fault in faults] == ["prompt", "width", "seed"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe{}", 400),
        (b'{"prompt": NaN}', 400),
        (b'{"prompt": "a", "guidance_scale": Infinity}', 400),
        (b'{"prompt": "a", "guidance_scale": 1e999}', 422),
        (b'{"prompt": "\\ud800"}', 422),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", 400),
        (b"[" * 50_000, 400),
        (b"[]", 422),
        (b'"prompt"', 422),
        (b"null", 422),
        (b"{}", 422),
        (b'{"\\ud800": 1, "prompt": "a"}', 422),
        (b'{"prompt": "' + b"x" * 100_000 + b'"}', 413),
    ],
)
async def test_a_body_that_is_no_request(api: ApiUnderTest, body: bytes, status: int) -> None:
    response = await api.http.post("/v1/jobs", content=body, headers=JSON)
    check_shape(response)
    assert response.status_code == status
    assert api.publisher.published == []


async def test_a_body_without_a_length_is_counted(api: ApiUnderTest) -> None:
    async def endless() -> Any:
        for _ in range(200):
            yield b" " * 1024

    response = await api.http.post("/v1/jobs", content=endless(), headers=JSON)
    check_shape(response)
    assert response.status_code == 413


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "", "application/json; charset=latin-1"],
)
async def test_another_content_type_is_refused(api: ApiUnderTest, content_type: str) -> None:
    response = await api.http.post(
        "/v1/jobs", content=b'{"prompt": "a"}', headers={"Content-Type": content_type}
    )
    assert check_shape(response)["code"] == "unsupported_media_type"
    assert response.status_code == 415


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("DELETE", "/v1/jobs", 405, "method_not_allowed"),
        ("PUT", "/v1/jobs/x", 405, "method_not_allowed"),
        ("GET", "/v1/jobs/%00", 404, "job_not_found"),
        ("GET", "/v1/jobs/" + "x" * 5000, 404, "job_not_found"),
        ("GET", "/v1/images/..%2f..%2fetc%2fpasswd", 404, "not_found"),
        ("GET", "/v1/images/x.png", 404, "image_not_found"),
        ("GET", "/v1/images/" + "0" * 64 + ".exe", 404, "image_not_found"),
    ],
)
async def test_what_is_not_there(api: ApiUnderTest, method: str, path: str, status: int, code: str) -> None:
    response = await api.http.request(method, path)
    assert (response.status_code, check_shape(response)["code"]) == (status, code)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
fields = st.sampled_from(
    [
        "prompt",
        "model",
        "negative_prompt",
        "width",
        "height",
        "num_inference_steps",
        "guidance_scale",
        "seed",
        "num_images",
        "other",
    ]
)


async def test_no_body_makes_a_500(api: ApiUnderTest) -> None:
    answers: list[int] = []

    @settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(st.dictionaries(fields, json_values, max_size=6))
    def collect(body: dict[str, Any]) -> None:
        bodies.append(json.dumps(body).encode("utf-8", "surrogatepass"))

    bodies: list[bytes] = []
    collect()
    for body in bodies:
        response = await api.http.post("/v1/jobs", content=body, headers=JSON)
        answers.append(response.status_code)
        if response.status_code >= 400:
            check_shape(response)
    assert set(answers) <= {200, 202, 400, 404, 422}


async def test_an_error_nobody_foresaw_tells_nothing_of_its_cause(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any) -> Any:
        raise RuntimeError("a secret prompt")

    monkeypatch.setattr(api.stores.jobs, "get", broken)
    job = await api.submit()
    response = await api.http.get(job["urls"]["self"])
    assert response.status_code == 500
    error = check_shape(response)
    assert error["code"] == "internal_error"
    assert "secret" not in response.text
    assert "secret" not in caplog.text

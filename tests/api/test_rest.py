"""Pictures, models, health, metrics, the OpenAPI document and the playground."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from urllib.parse import quote

import pytest

from contracts.errors import BrokerUnavailable
from tests.api.conftest import PICTURE, ApiUnderTest, Opener
from tests.worker.policies import policy_in

pytestmark = pytest.mark.anyio


@pytest.fixture
async def url(api: ApiUnderTest) -> str:
    job = await api.submit()
    await api.work()
    found: str = (await api.http.get(job["urls"]["self"])).json()["images"][0]["url"]
    return found


async def test_a_picture_is_immutable_and_typed(api: ApiUnderTest, url: str) -> None:
    response = await api.http.get(url)
    assert response.content == PICTURE
    assert response.headers["content-type"] == "image/png"
    assert "immutable" in response.headers["cache-control"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["etag"].strip('"') in url


async def test_a_copy_that_is_good_is_not_sent_again(api: ApiUnderTest, url: str) -> None:
    etag = (await api.http.get(url)).headers["etag"]
    for given in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        response = await api.http.get(url, headers={"If-None-Match": given})
        assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", etag)
    assert (await api.http.get(url, headers={"If-None-Match": '"other"'})).status_code == 200


@pytest.mark.parametrize(
    ("given", "status", "expected"),
    [
        ("bytes=0-3", 206, PICTURE[:4]),
        ("bytes=-4", 206, PICTURE[-4:]),
        ("bytes=260-", 206, PICTURE[260:]),
        ("bytes=0-99999", 206, PICTURE),
        ("bytes=99999-", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=5-2", 200, PICTURE),
        ("bytes=-", 200, PICTURE),
        ("bytes=0-1,3-4", 200, PICTURE),
        ("lines=1-2", 200, PICTURE),
    ],
)
async def test_ranges(api: ApiUnderTest, url: str, given: str, status: int, expected: bytes | None) -> None:
    response = await api.http.get(url, headers={"Range": given})
    assert response.status_code == status
    if expected is None:
        assert response.json()["error"]["code"] == "range_not_satisfiable"
        assert response.headers["content-range"] == f"bytes */{len(PICTURE)}"
    else:
        assert response.headers["accept-ranges"] == "bytes"
        assert response.content == expected
    if status == 206 and expected is not None:
        first = PICTURE.index(expected)
        assert (
            response.headers["content-range"] == f"bytes {first}-{first + len(expected) - 1}/{len(PICTURE)}"
        )


async def test_a_range_of_another_copy_is_the_whole(api: ApiUnderTest, url: str) -> None:
    response = await api.http.get(url, headers={"Range": "bytes=0-3", "If-Range": '"other"'})
    assert (response.status_code, response.content) == (200, PICTURE)


async def test_head_is_get_without_a_body(api: ApiUnderTest, url: str) -> None:
    response = await api.http.head(url)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == str(len(PICTURE))


async def test_models_tell_their_limits(api: ApiUnderTest) -> None:
    (model,) = (await api.http.get("/v1/models")).json()["data"]
    assert (model["id"], model["object"], model["live_workers"]) == ("m", "model", 1)
    assert (model["min_size"], model["max_size"], model["size_multiple"]) == (32, 96, 16)
    assert model["max_num_images"] == 4


async def test_a_model_by_its_name_is_as_in_the_list(opened: Opener) -> None:
    api = await opened(models=("m", "maker/other-1"))
    listed = {model["id"]: model for model in (await api.http.get("/v1/models")).json()["data"]}
    for name in ("m", "maker/other-1"):
        for path in (name, quote(name, safe="")):
            response = await api.http.get(f"/v1/models/{path}")
            assert (response.status_code, response.json()) == (200, listed[name])


@pytest.mark.parametrize("name", ["other", "m/", "%00", "%ED%A0%80", "x" * 1000])
async def test_a_model_that_nobody_announced_is_not_found(api: ApiUnderTest, name: str) -> None:
    response = await api.http.get(f"/v1/models/{name}")
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")


async def test_alive_and_ready(api: ApiUnderTest) -> None:
    assert (await api.http.get("/healthz")).json() == {"status": "ok"}
    assert (await api.http.get("/readyz")).json() == {
        "status": "ready",
        "checks": {"broker": "ok", "store": "ok"},
    }
    api.publisher.fault = BrokerUnavailable("The broker is away.")
    response = await api.http.get("/readyz")
    assert response.status_code == 503
    assert response.json()["error"]["details"]["checks"]["broker"] == "The broker is away."
    assert (await api.http.get("/healthz")).status_code == 200


async def test_metrics_name_routes_not_ids(api: ApiUnderTest, url: str) -> None:
    await api.http.get(url)
    text = (await api.http.get("/metrics")).text
    assert 'darkroom_jobs_submitted_total{cache="miss",model="m"}' in text
    assert 'route="/v1/jobs"' in text
    assert "job_0" not in text
    assert ".png" not in text


async def test_the_openapi_document_describes_every_route(api: ApiUnderTest) -> None:
    document = (await api.http.get("/openapi.json")).json()
    assert {path: set(operations) for path, operations in document["paths"].items()} == {
        "/v1/jobs": {"get", "post"},
        "/v1/search": {"get", "post"},
        "/v1/search/images": {"post"},
        "/v1/search/images/known": {"post"},
        "/v1/search/images/{name}": {"delete"},
        "/v1/search/clicks": {"post"},
        "/v1/images/{name}/similar": {"get"},
        "/v1/admin/search": {"get"},
        "/v1/admin/search/rebuild": {"post"},
        "/v1/jobs:batch": {"post"},
        "/v1/jobs/{job_id}": {"get"},
        "/v1/jobs/{job_id}/cancel": {"post"},
        "/v1/jobs/{job_id}/events": {"get"},
        "/v1/jobs/{job_id}/webhook": {"get"},
        "/v1/webhooks/secret": {"get"},
        "/v1/webhooks/secret/rotate": {"post"},
        "/v1/images/{name}": {"get"},
        "/v1/images/{name}/provenance": {"get"},
        "/v1/images/{name}/appeal": {"post"},
        "/v1/jobs/{job_id}/images/{index}/appeal": {"post"},
        "/v1/admin/moderation/log": {"get"},
        "/v1/admin/moderation/reviews": {"get"},
        "/v1/admin/moderation/reviews/{name}": {"get"},
        "/v1/admin/moderation/reviews/{name}/picture": {"get"},
        "/v1/admin/moderation/reviews/{name}/release": {"post"},
        "/v1/admin/moderation/reviews/{name}/refuse": {"post"},
        "/v1/admin/moderation/reviews/{name}/undo": {"post"},
        "/v1/images/generations": {"post"},
        "/v1/models": {"get"},
        "/v1/models/{model}": {"get"},
        "/v1/cache": {"get", "delete"},
        "/v1/admin/sessions": {"delete"},
        "/v1/admin/usage": {"get"},
        "/v1/keys": {"get", "post"},
        "/v1/keys/{key_id}": {"delete"},
        "/healthz": {"get"},
        "/readyz": {"get"},
        "/metrics": {"get"},
    }
    for path in document["paths"].values():
        for operation in path.values():
            assert operation["summary"]
            if "422" in operation["responses"]:
                schema = operation["responses"]["422"]["content"]["application/json"]["schema"]
                assert schema["$ref"].endswith("/ErrorView")


async def test_the_playground_needs_no_other_host_and_runs_its_own_script_alone(api: ApiUnderTest) -> None:
    response = await api.http.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", response.text)
    assert not re.findall(r"<script>|<style|style=|\bon\w+=", response.text), "nothing inline"
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    parts = re.findall(r"""(?:src|href)=["'](/static/[^"']+)""", response.text)
    assert len(set(parts)) == 3
    for path in parts:
        part = await api.http.get(path)
        assert part.status_code == 200
        again = await api.http.get(path, headers={"If-None-Match": part.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    for path in ("/static/nothing.js", "/static/..%2fapp.py", "/static/%2e%2e%2f%2e%2e%2fpyproject.toml"):
        assert (await api.http.get(path)).status_code == 404


async def test_the_playground_links_to_pages_that_the_server_has_a_use_for(
    opened: Opener, tmp_path: Path
) -> None:
    policy = policy_in(tmp_path / "policy")
    pages = {}
    for gallery, review in product((False, True), repeat=2):
        settings = {"search_url": "http://127.0.0.1:9"} if gallery else {}
        api = await opened(**settings, moderation=policy if review else None)
        page = pages[gallery, review] = await api.http.get("/")
        assert ('<a href="/gallery">' in page.text, '<a href="/review">' in page.text) == (gallery, review)
    assert len({page.headers["etag"] for page in pages.values()}) == 4
    again = await api.http.get("/", headers={"If-None-Match": pages[False, False].headers["etag"]})
    assert again.status_code == 200, "another page under the same address"


async def test_the_page_of_reviewers_runs_its_own_scripts_and_shows_pictures_that_they_fetched(
    api: ApiUnderTest,
) -> None:
    response = await api.http.get("/review")
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", response.text)
    assert not re.findall(r"<script>|<style|style=|\bon\w+=", response.text), "nothing inline"
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:;" in policy
    assert "<noscript>" in response.text
    for path in re.findall(r"""(?:src|href)=["'](/static/[^"']+)""", response.text):
        assert (await api.http.get(path)).status_code == 200
    etag = response.headers["etag"]
    assert (await api.http.get("/review", headers={"If-None-Match": etag})).status_code == 304


async def test_request_ids_are_echoed_when_sane(api: ApiUnderTest) -> None:
    assert (await api.http.get("/healthz", headers={"X-Request-ID": "abc-1"})).headers[
        "x-request-id"
    ] == "abc-1"
    odd = await api.http.get("/healthz", headers={"X-Request-ID": "a b<script>"})
    assert odd.headers["x-request-id"].startswith("req_")


async def test_the_document_tells_the_limits_of_what_is_served(api: ApiUnderTest) -> None:
    document = (await api.http.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    fields = schemas["JobRequest"]["properties"]
    width = fields["width"]["anyOf"][0]
    assert (width["minimum"], width["maximum"], width["multipleOf"]) == (32, 96, 16)
    assert fields["model"]["anyOf"][0]["enum"] == ["m"]
    assert fields["webhook"]["anyOf"][0] == {"$ref": "#/components/schemas/WebhookRequest"}
    assert schemas["WebhookRequest"]["properties"]["url"]["format"] == "uri"
    refused = document["paths"]["/v1/jobs"]["post"]["responses"]["503"]
    assert {"queue_full", "store_unavailable"} <= set(refused["content"]["application/json"]["examples"])
    assert {"Retry-After", "X-Request-ID"} <= set(refused["headers"])

    def references(node: object) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*map(references, node.values()))
        return set().union(*map(references, node)) if isinstance(node, list) else set()

    assert references(document) <= {f"#/components/schemas/{name}" for name in schemas}


async def test_the_reference_is_a_page_without_scripts(api: ApiUnderTest) -> None:
    response = await api.http.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert "script-src" not in response.headers["content-security-policy"]
    assert "<script" not in response.text
    for said in ("/v1/jobs/{job_id}/webhook", "num_inference_steps", "queue_full", "WebhookRequest"):
        assert said in response.text


async def test_allow_names_all_methods_of_an_address(api: ApiUnderTest) -> None:
    assert (await api.http.put("/v1/jobs")).headers["allow"] == "GET, POST"
    assert (await api.http.put("/v1/jobs/job_x")).headers["allow"] == "GET"

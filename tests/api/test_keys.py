"""API keys: which requests the API accepts, for which tenant, and which keys may create keys."""

from __future__ import annotations

from typing import Any

import pytest

from api.__main__ import refuse_to_be_open
from contracts.errors import SettingsError
from contracts.settings import ApiSettings, is_loopback
from contracts.tenancy import new_token
from tests.api.conftest import ADMIN_KEY as ADMIN
from tests.api.conftest import ApiUnderTest, Opener

pytestmark = pytest.mark.anyio


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def closed(opened: Opener) -> ApiUnderTest:
    """An API that needs a key."""
    return await opened(allow_anonymous=False)


async def made(api: ApiUnderTest, tenant: str = "acme", **fields: Any) -> dict[str, Any]:
    response = await api.http.post("/v1/keys", json={"tenant": tenant, **fields}, headers=bearer(ADMIN))
    assert response.status_code == 201, response.text
    key: dict[str, Any] = response.json()
    return key


async def test_a_key_is_made_used_listed_and_revoked(closed: ApiUnderTest) -> None:
    key = await made(closed, name="shop", images_per_day=5)
    assert key["id"] == key["key"][:11]
    assert (key["tenant"], key["name"], key["scopes"]) == ("acme", "shop", ["generate"])
    assert key["limits"]["images_per_day"] == 5
    assert key["limits"]["concurrent_jobs"] is None
    for headers in (bearer(key["key"]), {"X-API-Key": key["key"]}, {"Authorization": f"bearer {key['key']}"}):
        response = await closed.http.post("/v1/jobs", json={"prompt": "a"}, headers=headers)
        assert response.status_code == 202
    assert {message.tenant for message in closed.publisher.published} == {"acme"}

    listed = (await closed.http.get("/v1/keys", headers=bearer(ADMIN))).json()["data"]
    assert [each["id"] for each in listed] == [key["id"]]
    assert "key" not in listed[0]
    none = await closed.http.get("/v1/keys", params={"tenant": "other"}, headers=bearer(ADMIN))
    assert none.json() == {"data": []}

    for _ in range(2):
        revoked = await closed.http.delete(f"/v1/keys/{key['id']}", headers=bearer(ADMIN))
        assert revoked.status_code == 200
        assert revoked.json()["revoked_at"] is not None
    assert (await closed.http.delete("/v1/keys/dk_00000000", headers=bearer(ADMIN))).status_code == 404
    closed.clock.advance(1.0)
    response = await closed.http.get("/v1/jobs", headers=bearer(key["key"]))
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_a_request_costs_one_lookup_a_second(
    closed: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, asked = (await made(closed))["key"], []
    find = closed.stores.keys.find

    async def counted(key_id: str) -> Any:
        asked.append(key_id)
        return await find(key_id)

    monkeypatch.setattr(closed.stores.keys, "find", counted)
    for _ in range(5):
        assert (await closed.http.get("/v1/jobs", headers=bearer(token))).status_code == 200
    assert asked == [token[:11]]
    closed.clock.advance(1.0)
    assert (await closed.http.get("/v1/jobs", headers=bearer(token))).status_code == 200
    assert len(asked) == 2


async def test_who_has_no_key_is_told_how_to_bring_one(closed: ApiUnderTest) -> None:
    response = await closed.http.post("/v1/jobs", json={"prompt": "a"})
    assert (response.status_code, response.json()["error"]["code"]) == (401, "missing_api_key")
    assert response.headers["www-authenticate"] == 'Bearer realm="darkroom"'
    assert response.json()["error"]["type"] == "authentication_error"
    assert closed.publisher.published == []


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(new_token(), id="well-formed"),
        "dk_short",
        "sk-other",
        ADMIN[:-1] + "B",
        "dk_" + "é" * 43,
        "",
        "a b",
    ],
)
async def test_a_wrong_key_is_refused_and_never_repeated(closed: ApiUnderTest, token: str) -> None:
    value = f"Bearer {token}".encode()
    response = await closed.http.get("/v1/jobs", headers={b"Authorization": value})
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith('Bearer realm="darkroom"')
    if len(token) > 5:
        assert token not in response.text


async def test_a_key_that_only_begins_like_another_is_refused(closed: ApiUnderTest) -> None:
    token = (await made(closed))["key"]
    assert (await closed.http.get("/v1/jobs", headers=bearer(token))).status_code == 200
    near = token[:-1] + ("a" if token[-1] != "a" else "b")
    assert (await closed.http.get("/v1/jobs", headers=bearer(near))).status_code == 401


async def test_scopes_are_kept_apart(closed: ApiUnderTest) -> None:
    plain, ruler = (await made(closed))["key"], (await made(closed, scopes=["admin"]))["key"]
    for call in (("GET", "/v1/keys"), ("POST", "/v1/keys"), ("DELETE", "/v1/keys/dk_00000000")):
        response = await closed.http.request(*call, headers=bearer(plain))
        assert (response.status_code, response.json()["error"]["code"]) == (403, "insufficient_scope")
        assert response.json()["error"]["details"] == {"required_scope": "admin"}
        assert 'error="insufficient_scope"' in response.headers["www-authenticate"]
        assert (await closed.http.request(*call)).status_code == 401
    assert (await closed.http.get("/v1/jobs", headers=bearer(ruler))).status_code == 403
    assert (await closed.http.get("/v1/keys", headers=bearer(ruler))).status_code == 200
    assert (await closed.http.get("/v1/jobs", headers=bearer(ADMIN))).status_code == 200


async def test_without_a_key_on_loopback_everyone_is_one_tenant_and_nobody_rules(api: ApiUnderTest) -> None:
    job = await api.submit()
    assert api.publisher.published[0].tenant == "public"
    # Clients that must send some key may send any that is not one of ours.
    assert (await api.http.get(job["urls"]["self"], headers=bearer("sk-none"))).status_code == 200
    assert (await api.http.get(job["urls"]["self"], headers=bearer(new_token()))).status_code == 401
    assert (await api.http.get("/v1/keys")).status_code == 401


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "tenant"),
        ({"tenant": "Acme"}, "tenant"),
        ({"tenant": "a" * 64}, "tenant"),
        ({"tenant": "a:b"}, "tenant"),
        ({"tenant": 1}, "tenant"),
        ({"tenant": "public"}, "tenant"),
        ({"tenant": "admin"}, "tenant"),
        ({"tenant": "a", "name": "x" * 101}, "name"),
        ({"tenant": "a", "name": "\x1b[2J"}, "name"),
        ({"tenant": "a", "scopes": []}, "scopes"),
        ({"tenant": "a", "scopes": ["root"]}, "scopes"),
        ({"tenant": "a", "requests_per_minute": 0}, "requests_per_minute"),
        ({"tenant": "a", "burst": 1.5}, "burst"),
        ({"tenant": "a", "concurrent_jobs": 0}, "concurrent_jobs"),
        ({"tenant": "a", "queued_jobs": 10_001}, "queued_jobs"),
        ({"tenant": "a", "images_per_day": -1}, "images_per_day"),
        ({"tenant": "a", "weight": "2"}, "weight"),
        ({"tenant": "a", "priorities": ["urgent"]}, "priorities"),
        ({"tenant": "a", "colour": 1}, "colour"),
    ],
)
async def test_a_wrong_field_is_named(closed: ApiUnderTest, fields: dict[str, Any], param: str) -> None:
    response = await closed.http.post("/v1/keys", json=fields, headers=bearer(ADMIN))
    assert response.status_code == 422
    error = response.json()["error"]
    assert error["param"] == param
    assert param in error["message"]


def test_a_key_in_the_settings_is_checked_and_never_shown() -> None:
    settings = ApiSettings.from_env({"DARKROOM_ADMIN_KEY": ADMIN})
    assert ADMIN not in repr(settings)
    assert ADMIN not in str(settings)
    with pytest.raises(SettingsError, match="DARKROOM_ADMIN_KEY") as caught:
        ApiSettings.from_env({"DARKROOM_ADMIN_KEY": "secret-word"})
    assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
    ],
)
def test_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    assert ApiSettings(host=host).anonymous is loopback
    assert ApiSettings(host=host, allow_anonymous=True).anonymous
    assert not ApiSettings(host=host, allow_anonymous=False).anonymous


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Forwarded-Host", "Via"])
async def test_a_proxy_does_not_make_everybody_local(opened: Opener, header: str) -> None:
    """A server on loopback serves its own machine without a key. A proxy there passes on the requests of the world."""
    passed_on = {header: "203.0.113.7"}
    api = await opened()
    refused = await api.http.get("/v1/jobs", headers=passed_on)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "missing_api_key")
    assert "DARKROOM_ALLOW_ANONYMOUS" in refused.json()["error"]["message"]
    assert (
        await api.http.post("/v1/jobs", json={"prompt": "a red apple"}, headers=passed_on)
    ).status_code == 401
    assert (await api.http.get("/readyz", headers=passed_on)).status_code == 200
    told = await opened(allow_anonymous=True)
    assert (await told.http.get("/v1/jobs", headers=passed_on)).status_code == 200


async def test_a_server_that_others_reach_wants_a_key_or_to_be_told(closed: ApiUnderTest) -> None:
    keys = closed.stores.keys
    open_to_all = ApiSettings(host="0.0.0.0")
    with pytest.raises(SettingsError, match=r"DARKROOM_ADMIN_KEY.*DARKROOM_ALLOW_ANONYMOUS=true"):
        await refuse_to_be_open(open_to_all, keys)
    await refuse_to_be_open(ApiSettings(), keys)
    await refuse_to_be_open(ApiSettings(host="0.0.0.0", allow_anonymous=True), keys)
    await refuse_to_be_open(ApiSettings(host="0.0.0.0", admin_key=ADMIN), keys)
    key = await made(closed)
    await refuse_to_be_open(open_to_all, keys)
    await closed.http.delete(f"/v1/keys/{key['id']}", headers=bearer(ADMIN))
    with pytest.raises(SettingsError):
        await refuse_to_be_open(open_to_all, keys)


OPEN = {"/v1/images/{name}", "/v1/images/{name}/provenance", "/healthz", "/readyz", "/metrics"}
"""Routes that need no key, each for a reason: see `api/auth.py`."""


async def test_every_other_route_asks_for_a_key(closed: ApiUnderTest) -> None:
    paths = (await closed.http.get("/openapi.json")).json()["paths"]
    operations = [(method, path, each) for path, methods in paths.items() for method, each in methods.items()]
    assert {path for _, path, each in operations if "security" not in each} == OPEN
    for method, path, each in operations:
        if path not in OPEN:
            assert {"401", "403"} <= set(each["responses"]), path
            address = path.replace("{job_id}", "job_" + "0" * 27).replace("{key_id}", "dk_00000000")
            response = await closed.http.request(method.upper(), address)
            assert response.status_code == 401, path

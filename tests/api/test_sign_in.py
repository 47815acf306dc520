"""People sign in at a certified OpenID provider that runs beside the API, review, and sign out."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from api.sign_in import opened as sign_in_of
from contracts.errors import SettingsError
from contracts.sessions import person_id_of
from contracts.settings import ApiSettings
from runtime.clock import SystemClock
from store.sessions import RedisSessionStore
from tests.api.conftest import ADMIN, ApiUnderTest, Opener
from tests.api.held import REVIEWS, drawn, image_of, listed
from tests.openid.running import CLIENT, SECRET, provider, signed_in

pytestmark = pytest.mark.anyio

PUBLIC = "http://localhost"
CALLBACK = f"{PUBLIC}/sign-in/callback"
OWN = {"Origin": PUBLIC, "Sec-Fetch-Site": "same-origin"}
"""What a browser adds to a request that our own page makes."""


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with provider(CALLBACK) as running:
        yield running


def settings(issuer: str, **more: Any) -> dict[str, Any]:
    return {
        "public_url": PUBLIC,
        "oidc_issuer": issuer,
        "oidc_client_id": CLIENT,
        "oidc_client_secret": SECRET,
        "oidc_moderators": "reviewers, moderators",
        "oidc_admins": "operators",
        **more,
    }


@pytest.fixture
async def desk(opened: Opener, issuer: str) -> ApiUnderTest:
    return await opened(**settings(issuer))


@pytest.fixture
async def other(desk: ApiUnderTest) -> AsyncIterator[httpx.AsyncClient]:
    """Another browser at the same desk."""
    transport = desk.http._transport
    async with httpx.AsyncClient(transport=transport, base_url=PUBLIC) as client:
        yield client


async def begun(browser: httpx.AsyncClient) -> str:
    answer = await browser.get("/sign-in")
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


async def returned(browser: httpx.AsyncClient, login: str) -> str:
    """The address of the callback, once the person has signed in at the provider."""
    address = await begun(browser)
    return await asyncio.to_thread(signed_in, address, login)


async def sign_in(browser: httpx.AsyncClient, login: str) -> None:
    answer = await browser.get(await returned(browser, login))
    assert (answer.status_code, answer.headers["location"]) == (303, "/review"), answer.text


async def person(browser: httpx.AsyncClient) -> Any:
    return (await browser.get("/session")).json()["person"]


async def test_a_person_signs_in_reviews_and_signs_out(desk: ApiUnderTest, issuer: str) -> None:
    job = await desk.submit()
    await drawn(desk)
    browser = desk.http
    assert (await browser.get("/session")).json() == {"sign_in": f"{PUBLIC}/sign-in", "person": None}
    with capture_logs() as logs:
        await sign_in(browser, "ada")
    shown = await person(browser)
    assert (shown["name"], shown["scopes"]) == ("Ada Lovelace", ["moderate"])
    (review,) = await listed(desk, OWN)
    answer = await browser.post(f"{REVIEWS}/{review['name']}/release", headers=OWN, json={"note": "a toy"})
    assert answer.json()["decision"]["name"] == "Ada Lovelace"
    assert (await image_of(desk, job["id"]))["url"] is not None
    log = (await browser.get("/v1/admin/moderation/log", headers=OWN)).json()
    (entry,) = log["data"]
    assert entry["what"]["by"] == f"{issuer}#ada"
    assert "Ada" not in str(entry), "the trail is for ever"
    assert log["fault"] is None

    told = [each for each in logs if each["event"] == "signed_in"]
    assert [each["scopes"] for each in told] == [["moderate"]]
    words = " ".join(map(str, logs))
    for secret in ("ada", "Ada", *browser.cookies.values()):
        assert secret not in words
    assert (await browser.post("/sign-out", headers=OWN)).status_code == 204
    assert await person(browser) is None
    assert (await browser.get(REVIEWS, headers=OWN)).status_code == 401


async def test_a_session_ends_for_every_copy_of_its_cookie(
    desk: ApiUnderTest, other: httpx.AsyncClient
) -> None:
    await sign_in(desk.http, "ada")
    other.cookies.update(desk.http.cookies)
    assert (await other.get(REVIEWS)).status_code == 200
    await desk.http.post("/sign-out", headers=OWN)
    answer = await other.get(REVIEWS)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "session_ended")
    assert await person(other) is None
    # A new sign-in has a new token, and ends the session of before.
    await sign_in(desk.http, "ada")
    other.cookies.update(desk.http.cookies)
    await sign_in(desk.http, "bob")
    assert (await other.get(REVIEWS)).status_code == 401
    assert (await person(desk.http))["name"] == "Bob"


async def test_a_session_has_an_end(opened: Opener, issuer: str) -> None:
    desk = await opened(**settings(issuer, oidc_session_s=600))
    answer = await desk.http.get(await returned(desk.http, "ada"))
    assert "Max-Age=600;" in answer.headers["set-cookie"]
    desk.clock.advance(599)
    assert (await desk.http.get(REVIEWS)).status_code == 200
    desk.clock.advance(2)
    assert (await desk.http.get(REVIEWS)).json()["error"]["code"] == "session_ended"


@pytest.mark.parametrize("named", ["everybody", "by the audit trail", "by the log"])
async def test_an_operator_signs_people_out(
    desk: ApiUnderTest, other: httpx.AsyncClient, issuer: str, named: str
) -> None:
    await sign_in(desk.http, "ada")
    await sign_in(other, "bob")
    person = f"{issuer}#ada"
    if named == "by the log":
        person = person_id_of(person)
    query = {} if named == "everybody" else {"person": person}
    with capture_logs() as logs:
        answer = await desk.http.delete("/v1/admin/sessions", params=query, headers=ADMIN)
    assert answer.status_code == 204
    (call,) = [each for each in logs if each["event"] == "admin_call"]
    assert call["query"] == ("" if named == "everybody" else f"person={person_id_of(f'{issuer}#ada')}")
    assert (await desk.http.get(REVIEWS)).json()["error"]["code"] == "session_ended"
    assert (await other.get(REVIEWS)).status_code == (401 if named == "everybody" else 200)
    desk.clock.advance(1)
    await sign_in(desk.http, "ada")
    assert (await desk.http.get(REVIEWS)).status_code == 200
    # A reviewer signs nobody out.
    assert (await desk.http.delete("/v1/admin/sessions", headers=OWN)).status_code == 403
    wrong = await desk.http.delete("/v1/admin/sessions", params={"person": "ada"}, headers=ADMIN)
    assert wrong.status_code == 422


async def test_two_people_must_agree_and_one_person_is_one(opened: Opener, issuer: str) -> None:
    desk = await opened(**settings(issuer, reviewers=2))
    await desk.submit()
    await drawn(desk)
    browsers = [httpx.AsyncClient(transport=desk.http._transport, base_url=PUBLIC) for _ in range(3)]
    for browser, login in zip(browsers, ("ada", "ada", "bob"), strict=True):
        await sign_in(browser, login)
    (review,) = (await browsers[0].get(REVIEWS)).json()["data"]
    path = f"{REVIEWS}/{review['name']}/release"
    states = [(await browser.post(path, headers=OWN)).json()["state"] for browser in browsers]
    assert states == ["waiting", "waiting", "released"]
    for browser in browsers:
        await browser.aclose()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"{PUBLIC}:8080"},
        {"Origin": "https://localhost"},
        {**OWN, "Sec-Fetch-Site": "same-site"},
        {**OWN, "Sec-Fetch-Site": "cross-site"},
        {**OWN, "Sec-Fetch-Site": "none"},
    ],
    ids=str,
)
async def test_no_other_page_uses_a_sign_in(desk: ApiUnderTest, headers: dict[str, str]) -> None:
    await desk.submit()
    await drawn(desk)
    await sign_in(desk.http, "ada")
    (review,) = await listed(desk, OWN)
    for path in (f"{REVIEWS}/{review['name']}/release", f"{REVIEWS}/{review['name']}/undo", "/sign-out"):
        answer = await desk.http.post(path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed"), path
    assert (await listed(desk, OWN))[0]["state"] == "waiting"


async def test_no_other_page_opens_a_picture(desk: ApiUnderTest) -> None:
    await desk.submit()
    await drawn(desk)
    await sign_in(desk.http, "ada")
    (review,) = await listed(desk, OWN)
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        answer = await desk.http.get(review["picture"], headers={"Sec-Fetch-Site": site})
        assert answer.status_code == status, site


async def test_groups_decide_what_a_person_may(desk: ApiUnderTest, other: httpx.AsyncClient) -> None:
    await sign_in(desk.http, "ada")
    answer = await desk.http.get("/v1/admin/usage")
    assert (answer.status_code, answer.json()["error"]["details"]) == (403, {"required_scope": "admin"})
    await sign_in(other, "root")
    assert (await other.get("/v1/admin/usage")).status_code == 200
    assert (await other.get(REVIEWS)).status_code == 200
    made = await other.post("/v1/keys", json={"tenant": "acme"}, headers=OWN)
    assert made.status_code == 201, made.text
    # Jobs are for programs. Without keys, a person who is signed in draws as anybody does.
    job = await other.post("/v1/jobs", json={"prompt": "x"}, headers=OWN)
    assert job.status_code == 202
    assert (await other.get(f"/v1/jobs/{job.json()['id']}")).json()["id"] == job.json()["id"]


async def test_a_key_counts_before_a_sign_in(desk: ApiUnderTest) -> None:
    await sign_in(desk.http, "ada")
    answer = await desk.http.get("/v1/admin/usage", headers=ADMIN)
    assert answer.status_code == 200
    assert (await desk.http.get(REVIEWS, headers={"X-API-Key": "dk_" + "x" * 43})).status_code == 401


async def test_who_has_no_group_is_refused(desk: ApiUnderTest) -> None:
    address = await returned(desk.http, "eve")
    with capture_logs() as logs:
        answer = await desk.http.get(address)
    assert answer.status_code == 403
    assert "Ask an operator" in answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "session" not in " ".join(desk.http.cookies)
    assert [(each["code"], each["cause"]) for each in logs if each["event"] == "sign_in_failed"] == [
        ("sign_in_refused", "scope")
    ]


async def test_groups_may_be_told_at_the_userinfo_endpoint_alone(opened: Opener) -> None:
    with provider(CALLBACK, in_id_token=False) as issuer:
        desk = await opened(**settings(issuer))
        await sign_in(desk.http, "ada")
        assert (await person(desk.http))["scopes"] == ["moderate"]


async def test_a_public_client_has_pkce_alone(opened: Opener) -> None:
    with provider(CALLBACK, secret="") as issuer:
        desk = await opened(**settings(issuer, oidc_client_secret=""))
        await sign_in(desk.http, "ada")
        assert (await person(desk.http))["name"] == "Ada Lovelace"


async def test_a_callback_counts_once_and_in_its_own_browser(
    desk: ApiUnderTest, other: httpx.AsyncClient
) -> None:
    address = await returned(desk.http, "ada")
    attempt = dict(desk.http.cookies)
    answer = await other.get(address)
    assert answer.status_code == 403
    assert "not begun in this browser" in answer.text
    assert (await desk.http.get(address)).status_code == 303
    # Again: the cookie is gone. With a copy of the cookie: the code is spent.
    assert (await desk.http.get(address)).status_code == 403
    other.cookies.update(attempt)
    assert (await other.get(address)).status_code == 403
    assert await person(other) is None
    assert (await person(desk.http))["name"] == "Ada Lovelace"


async def test_of_two_sign_ins_in_one_browser_the_later_counts(desk: ApiUnderTest) -> None:
    first = await returned(desk.http, "ada")
    second = await returned(desk.http, "bob")
    assert (await desk.http.get(first)).status_code == 403
    assert "Sign in again" in (await desk.http.get(second)).text, "and the first answer has ended both"


async def test_a_sign_in_that_takes_too_long_is_refused(desk: ApiUnderTest) -> None:
    address = await returned(desk.http, "ada")
    desk.clock.advance(601)
    answer = await desk.http.get(address)
    assert (answer.status_code, "took too long" in answer.text) == (403, True)


@pytest.mark.parametrize(
    "query",
    [
        "?error=access_denied&error_description=%3Cscript%3Ealert(1)%3C/script%3E&state={state}",
        "?error=server_error&state={state}",
        "?code=abc&state={state}&iss=https%3A%2F%2Fevil.example",
        "?code=abc&state=" + "x" * 43,
        "?code=abc&state=%F0%9F%94%91",
        "?code=&state={state}",
        "?state={state}",
        "?code=never-given&state={state}",
        "",
    ],
)
async def test_an_answer_that_does_not_fit_is_refused_and_repeats_nothing(
    desk: ApiUnderTest, query: str
) -> None:
    state = httpx.URL(await begun(desk.http)).params["state"]
    answer = await desk.http.get("/sign-in/callback" + query.format(state=state))
    assert answer.status_code == 403
    for word in ("script", "evil", "never-given", state):
        assert word not in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["cache-control"] == "no-store"
    assert await person(desk.http) is None


async def test_cookies_behind_https(opened: Opener, issuer: str) -> None:
    desk = await opened(**settings(issuer, public_url="https://studio.example/"))
    answer = await desk.http.get("/sign-in")
    assert httpx.URL(answer.headers["location"]).params["redirect_uri"] == (
        "https://studio.example/sign-in/callback"
    )
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-darkroom-sign-in=")
    for part in ("HttpOnly", "Max-Age=600", "Path=/", "SameSite=lax", "Secure"):
        assert f"; {part}" in cookie, cookie


async def test_without_the_setting_nobody_signs_in(api: ApiUnderTest) -> None:
    assert (await api.http.get("/session")).json() == {"sign_in": None, "person": None}
    for method, path in (("GET", "/sign-in"), ("GET", "/sign-in/callback"), ("POST", "/sign-out")):
        assert (await api.http.request(method, path)).status_code == 404, path


def test_without_the_setting_its_libraries_are_not_loaded() -> None:
    code = "import sys, api.app, api.__main__; print([m for m in sys.modules if m.split('.')[0] in ('authlib', 'joserfc')])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"oidc_client_id": None}, "DARKROOM_OIDC_CLIENT_ID"),
        ({"public_url": None}, "DARKROOM_PUBLIC_URL"),
        ({"oidc_moderators": " ,", "oidc_admins": ""}, "DARKROOM_OIDC_MODERATORS"),
        ({"oidc_issuer": "http://id.example"}, "DARKROOM_OIDC_ISSUER must begin with https://"),
        ({"public_url": "http://studio.example"}, "DARKROOM_PUBLIC_URL must begin with https://"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_stop_the_process(changed: dict[str, Any], named: str) -> None:
    given = ApiSettings.model_validate(settings("https://id.example", **changed))
    with pytest.raises(SettingsError, match=named):
        sign_in_of(given, RedisSessionStore(Redis(), 1.0), SystemClock())

"""What a provider may not say: tokens and documents that are not what they should be, and no answer at all."""

from __future__ import annotations

import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from joserfc.jwk import RSAKey
from structlog.testing import capture_logs

from api import openid
from api.person import name_of, values_of
from api.sign_in import origin_of
from tests.api.conftest import ApiUnderTest, Opener
from tests.openid.lying import CLIENT, KEY, OTHER_KEY, Liar, lying

pytestmark = pytest.mark.anyio


@pytest.fixture
def liar() -> Iterator[Liar]:
    with lying() as provider:
        yield provider


@pytest.fixture
async def desk(opened: Opener, liar: Liar) -> ApiUnderTest:
    return await opened(**settings(liar))


def settings(liar: Liar, **more: Any) -> dict[str, Any]:
    return {
        "public_url": "http://localhost",
        "oidc_issuer": liar.issuer,
        "oidc_client_id": CLIENT,
        "oidc_moderators": "reviewers",
        **more,
    }


async def outcome(desk: ApiUnderTest, liar: Liar) -> tuple[int, str | None]:
    """Status of the callback, and the cause in the log; None: the person is in."""
    begun = httpx.URL((await desk.http.get("/sign-in")).headers["location"])
    liar.nonce = begun.params["nonce"]
    with capture_logs() as logs:
        answer = await desk.http.get(
            "/sign-in/callback", params={"code": "c", "state": begun.params["state"]}
        )
    (told,) = [each for each in logs if each["event"] in ("signed_in", "sign_in_failed")]
    signed_in = (await desk.http.get("/session")).json()["person"] is not None
    assert signed_in == (answer.status_code == 303)
    return answer.status_code, told.get("cause")


def by_hand(header: dict[str, str], liar: Liar, sign: Callable[[bytes], bytes]) -> str:
    parts = [urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in (header, liar.claims())]
    body = b".".join(parts)
    return (body + b"." + urlsafe_b64encode(sign(body)).rstrip(b"=")).decode()


def unsigned(liar: Liar) -> str:
    return by_hand({"alg": "none"}, liar, lambda _: b"")


def by_the_public_key(liar: Liar) -> str:
    """Signed with what everybody knows, as if it were a shared secret."""
    secret = KEY.as_pem(private=False)
    return by_hand({"alg": "HS256", "kid": "one"}, liar, lambda body: hmac.digest(secret, body, "sha256"))


NOW = time.time
TOKENS: list[tuple[str, Callable[[Liar], str], str | None]] = [
    ("good", lambda liar: liar.signed(), None),
    ("of another key with the same name", lambda liar: liar.signed(OTHER_KEY), "signature"),
    ("changed after it was signed", lambda liar: swapped(liar), "signature"),
    ("of a key that the provider does not have", lambda liar: liar.signed(unknown_key()), "key"),
    ("without a signature", unsigned, "algorithm"),
    ("signed with the public key", by_the_public_key, "algorithm"),
    ("of another issuer", lambda liar: liar.signed(iss="https://evil.example"), "iss"),
    ("of no issuer", lambda liar: liar.signed(iss=None), "iss"),
    ("for another client", lambda liar: liar.signed(aud="another"), "aud"),
    ("for us and another", lambda liar: liar.signed(aud=[CLIENT, "another"], azp=CLIENT), "aud"),
    (
        "for us and an audience that is allowed",
        lambda liar: liar.signed(aud=[CLIENT, "api"], azp=CLIENT),
        None,
    ),
    ("made for another client", lambda liar: liar.signed(azp="another"), "azp"),
    ("for several, made for nobody", lambda liar: liar.signed(aud=[CLIENT, "api"]), "azp"),
    ("for no client", lambda liar: liar.signed(aud=None), "aud"),
    ("of another sign-in", lambda liar: liar.signed(nonce="n" * 43), "nonce"),
    ("of no sign-in", lambda liar: liar.signed(nonce=None), "nonce"),
    ("expired", lambda liar: liar.signed(iat=int(NOW()) - 900, exp=int(NOW()) - 90), "exp"),
    ("expired within the skew of clocks", lambda liar: liar.signed(exp=int(NOW()) - 30), None),
    ("without an end", lambda liar: liar.signed(exp=None), "exp"),
    ("of the future", lambda liar: liar.signed(iat=int(NOW()) + 120), "iat"),
    ("of the future within the skew of clocks", lambda liar: liar.signed(iat=int(NOW()) + 30), None),
    ("not valid yet", lambda liar: liar.signed(nbf=int(NOW()) + 120), "nbf"),
    ("of nobody", lambda liar: liar.signed(sub=None), "sub"),
    ("of somebody whose name is a number", lambda liar: liar.signed(sub=7), "sub"),
    ("of somebody without a name", lambda liar: liar.signed(sub=""), "sub"),
    ("of a very long name", lambda liar: liar.signed(sub="x" * 256), "sub"),
    ("for another access token", lambda liar: liar.signed(at_hash="x" * 22), "at_hash"),
    ("that is none", lambda liar: "no token", "format"),
    ("of an empty text", lambda liar: "", "format"),
]


def swapped(liar: Liar) -> str:
    good, other = liar.signed().split("."), liar.signed(groups=["operators", "reviewers"]).split(".")
    return f"{good[0]}.{other[1]}.{good[2]}"


def unknown_key() -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": "two"})


@pytest.mark.parametrize(("token", "cause"), [case[1:] for case in TOKENS], ids=[case[0] for case in TOKENS])
async def test_a_token(opened: Opener, liar: Liar, token: Callable[[Liar], str], cause: str | None) -> None:
    desk = await opened(**settings(liar, oidc_audiences="api"))
    liar.token = token
    assert await outcome(desk, liar) == (303 if cause is None else 403, cause)


async def test_a_good_token_is_enough_and_the_verifier_is_sent(desk: ApiUnderTest, liar: Liar) -> None:
    assert await outcome(desk, liar) == (303, None)
    (form,) = liar.asked
    assert form["redirect_uri"] == ["http://localhost/sign-in/callback"]
    assert form["client_id"] == [CLIENT]
    assert len(form["code_verifier"][0]) == 43


async def test_a_state_counts_once_also_where_the_provider_takes_a_code_twice(
    desk: ApiUnderTest, liar: Liar
) -> None:
    begun = httpx.URL((await desk.http.get("/sign-in")).headers["location"])
    liar.nonce = begun.params["nonce"]
    attempt = dict(desk.http.cookies)
    query = {"code": "c", "state": begun.params["state"]}
    assert (await desk.http.get("/sign-in/callback", params=query)).status_code == 303
    desk.http.cookies.clear()
    desk.http.cookies.update(attempt)
    again = await desk.http.get("/sign-in/callback", params=query)
    assert (again.status_code, len(liar.asked)) == (403, 2)
    assert (await desk.http.get("/session")).json()["person"] is None


async def test_a_provider_may_change_its_keys(desk: ApiUnderTest, liar: Liar) -> None:
    assert await outcome(desk, liar) == (303, None)
    desk.http.cookies.clear()
    new = unknown_key()
    liar.keys = [KEY, new]
    liar.token = lambda each: each.signed(new)
    # The keys were asked for just now. A stranger's tokens do not make us ask again and again.
    assert await outcome(desk, liar) == (403, "key")
    desk.clock.advance(openid.KEYS_AGAIN_S + 1)
    liar.token = lambda each: each.signed(new, iat=int(desk.clock.now()), exp=int(desk.clock.now()) + 300)
    assert await outcome(desk, liar) == (303, None)


async def test_keys_that_nobody_can_use_do_no_harm(desk: ApiUnderTest, liar: Liar) -> None:
    strange = [
        {"kty": "AKP", "kid": "one"},
        {"kty": "RSA", "kid": "one", "n": "!"},
        {"kty": "oct", "k": "eA"},
        7,
    ]
    liar.answers["/keys"] = (200, json.dumps({"keys": [*strange, KEY.as_dict(private=False)]}).encode())
    assert await outcome(desk, liar) == (303, None)


@pytest.mark.parametrize(
    ("path", "answer", "cause"),
    [
        ("/token", (500, b"oh"), "token_endpoint"),
        ("/token", (200, b"[]"), "tokens"),
        ("/token", (200, b'{"access_token": 7, "id_token": 8}'), "tokens"),
        ("/token", (401, b'{"error": "invalid_client"}'), "client_refused"),
        ("/token", (302, b""), "token_endpoint"),
        ("/token", (200, b"x" * 1_100_000), "too_long"),
        ("/keys", (404, b""), "status_404"),
        ("/keys", (200, b'{"keys": []}'), None),
        ("/keys", (200, b'{"keys": 7}'), None),
        ("/token", (200, b"[" * 100_000), "tokens"),
        ("/token", (200, b"\xff{}"), "tokens"),
    ],
    ids=str,
)
async def test_a_provider_that_does_not_answer_as_it_should(
    desk: ApiUnderTest, liar: Liar, path: str, answer: tuple[int, bytes], cause: str | None
) -> None:
    liar.answers[path] = answer
    assert await outcome(desk, liar) == ((403, "key") if cause is None else (503, cause))


@pytest.mark.parametrize(
    ("offer", "cause"),
    [
        ({"issuer": "https://evil.example"}, "discovery_issuer"),
        ({"token_endpoint": None}, "discovery"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "discovery"),
        ({"jwks_uri": "http://[nowhere"}, "discovery"),
        ({"token_endpoint_auth_methods_supported": 7}, "discovery"),
    ],
    ids=str,
)
async def test_a_provider_whose_offer_is_not_its_own(
    desk: ApiUnderTest, liar: Liar, offer: dict[str, Any], cause: str
) -> None:
    liar.offer = offer
    with capture_logs() as logs:
        answer = await desk.http.get("/sign-in")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert [each["cause"] for each in logs if each["event"] == "sign_in_failed"] == [cause]


async def test_a_provider_that_is_away(opened: Opener) -> None:
    with lying() as gone:
        pass
    desk = await opened(**settings(gone))
    answer = await desk.http.get("/sign-in")
    assert answer.status_code == 503
    assert "cannot be reached now" in answer.text
    assert gone.issuer not in answer.text
    # All else goes on.
    assert (await desk.http.get("/session")).json() == {"sign_in": "http://localhost/sign-in", "person": None}
    assert (await desk.http.get("/review")).status_code == 200


@pytest.mark.parametrize(("subject", "status"), [("7", 303), ("8", 403)])
async def test_the_userinfo_of_another_person_is_refused(
    desk: ApiUnderTest, liar: Liar, subject: str, status: int
) -> None:
    liar.offer = {"userinfo_endpoint": f"{liar.issuer}/me"}
    liar.token = lambda each: each.signed(groups=None)
    liar.answers["/me"] = (200, json.dumps({"sub": subject, "groups": "reviewers"}).encode())
    assert await outcome(desk, liar) == (status, None if status == 303 else "userinfo")


def test_an_offer_is_as_encrypted_as_its_issuer() -> None:
    issuer = "https://id.example"
    good = {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/a",
        "token_endpoint": f"{issuer}/t",
        "jwks_uri": f"{issuer}/k",
        "userinfo_endpoint": f"{issuer}/u",
    }
    openid.Offer.model_validate(good).check(issuer)
    for name in set(good) - {"issuer"}:
        with pytest.raises(ValueError, match="https"):
            openid.Offer.model_validate({**good, name: "http://id.example/x"}).check(issuer)


@pytest.mark.parametrize(
    ("claims", "path", "values"),
    [
        ({"groups": ["a", 7, None]}, "groups", {"a"}),
        ({"groups": "a"}, "groups", {"a"}),
        ({"realm_access": {"roles": ["a"]}}, "realm_access.roles", {"a"}),
        ({"https://x.example/roles": ["a"]}, "https://x.example/roles", {"a"}),
        ({"realm_access": ["roles"]}, "realm_access.roles", set()),
        ({"groups": {"a": True}}, "groups", set()),
        ({}, "groups", set()),
    ],
)
def test_the_values_of_a_claim(claims: dict[str, Any], path: str, values: set[str]) -> None:
    assert values_of(claims, path) == values


def test_a_name_is_printable_and_short() -> None:
    assert name_of({"name": "A\u202eda\n", "sub": "7"}) == "Ada"
    assert name_of({"name": "\u202e", "preferred_username": "ada", "sub": "7"}) == "ada"
    assert name_of({"name": ["Ada"], "sub": "7"}) == "7"
    assert len(name_of({"name": "x" * 1000})) == 100


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Studio.example/", "https://studio.example"),
        ("https://studio.example:443/path", "https://studio.example"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_an_origin_is_written_as_browsers_do(url: str, origin: str) -> None:
    assert origin_of(url) == origin

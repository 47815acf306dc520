"""The OpenID provider, as the API asks it: what it offers, its keys, and who a person is.

Authorization code with PKCE (OpenID Connect Core 1.0, section 3.1; RFC 7636). Nothing is asked before
somebody signs in.
"""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, Final
from urllib.parse import quote_plus, urlencode, urlsplit

import httpx
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc.jwk import KeySet
from pydantic import AfterValidator, ValidationError

from api.id_token import BadIdToken, Expected, UnknownSigningKey, claims_of, keys_of
from api.person import values_of
from contracts.documents import Document
from contracts.errors import SignInRefused, SignInUnavailable
from contracts.ports.clock import Clock
from contracts.settings import ApiSettings
from contracts.sign_in_settings import names_of

TIMEOUT_S: Final = 10.0
"""The longest time for one answer of the provider."""
MAX_BYTES: Final = 1_048_576
"""The longest answer of the provider."""
KEEP_S: Final = 3600.0
"""For how long what the provider offers, and its keys, are remembered."""
KEYS_AGAIN_S: Final = 10.0
"""A token by an unknown key makes us ask for the keys again, if they are older than this."""
AWAY: Final = "The sign-in service cannot be reached now. Try again in a moment, or use an API key."


def _web(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.fragment:
        raise ValueError("it is no web address")
    return text


Endpoint = Annotated[str, AfterValidator(_web)]


class Offer(Document):
    """What a provider says of itself (OpenID Connect Discovery 1.0, section 3)."""

    issuer: str
    authorization_endpoint: Endpoint
    token_endpoint: Endpoint
    jwks_uri: Endpoint
    userinfo_endpoint: Endpoint | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)

    def check(self, issuer: str) -> None:
        """Raises `ValueError` unless it is the offer of `issuer`, and as well encrypted as that."""
        if self.issuer != issuer:
            raise ValueError("issuer")
        if issuer.startswith("https:"):
            endpoints = (
                self.authorization_endpoint,
                self.token_endpoint,
                self.jwks_uri,
                self.userinfo_endpoint,
            )
            for each in endpoints:
                if each is not None and not each.startswith("https:"):
                    raise ValueError("https")


class OpenIdProvider:
    """The provider of the settings. Its connections stay open."""

    def __init__(self, settings: ApiSettings, clock: Clock, redirect_uri: str) -> None:
        self._settings = settings
        self._clock = clock
        self._redirect_uri = redirect_uri
        self._issuer = settings.oidc_issuer or ""
        self._client_id = settings.oidc_client_id or ""
        self._http: httpx.AsyncClient | None = None
        self._offer: tuple[float, Offer] | None = None
        self._keys: tuple[float, KeySet] | None = None

    async def address(self, state: str, nonce: str, verifier: str) -> str:
        """Where a browser is sent, so that a person signs in. Raises `SignInUnavailable`."""
        endpoint = (await self._offered()).authorization_endpoint
        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": self._redirect_uri,
            "scope": self._settings.oidc_scope,
            "state": state,
            "nonce": nonce,
            "code_challenge": create_s256_code_challenge(verifier),
            "code_challenge_method": "S256",
        }
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(query)}"

    async def claims(self, code: str, nonce: str, verifier: str) -> dict[str, Any]:
        """What the provider says of the person who came back with `code`. Raises `SignInRefused`,
        `SignInUnavailable`."""
        answer = await self._redeem(code, verifier)
        token, access = answer.get("id_token"), answer.get("access_token")
        if not isinstance(token, str) or not isinstance(access, str):
            raise SignInUnavailable(AWAY, "tokens")
        expected = Expected(
            self._issuer, self._client_id, nonce, access, names_of(self._settings.oidc_audiences)
        )
        try:
            claims = await self._checked(token, expected)
        except BadIdToken as error:
            raise SignInRefused(
                "The sign-in service's answer could not be confirmed. Sign in again.", error.cause
            ) from None
        endpoint = (await self._offered()).userinfo_endpoint
        if endpoint is not None and not values_of(claims, self._settings.oidc_claim):
            more = await self._get(endpoint, access)
            # Without this check one person could get the groups of another (section 5.3.2).
            if more.get("sub") != claims["sub"]:
                raise SignInRefused(
                    "The sign-in service's answer could not be confirmed. Sign in again.", "userinfo"
                )
            claims = {**more, **claims}
        return claims

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()

    async def _checked(self, token: str, expected: Expected) -> dict[str, Any]:
        now = self._clock.now()
        try:
            return claims_of(token, await self._key_set(KEEP_S), expected, now)
        except UnknownSigningKey:
            # The provider has changed its keys.
            return claims_of(token, await self._key_set(KEYS_AGAIN_S), expected, now)

    async def _offered(self) -> Offer:
        if self._offer is None or self._offer[0] + KEEP_S < self._clock.monotonic():
            document = await self._get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
            try:
                offer = Offer.model_validate(document)
                offer.check(self._issuer)
            except ValidationError:
                raise SignInUnavailable(AWAY, "discovery") from None
            except ValueError as error:
                raise SignInUnavailable(AWAY, f"discovery_{error}") from None
            self._offer = (self._clock.monotonic(), offer)
        return self._offer[1]

    async def _key_set(self, keep_s: float) -> KeySet:
        if self._keys is None or self._keys[0] + keep_s < self._clock.monotonic():
            document = await self._get((await self._offered()).jwks_uri)
            self._keys = (self._clock.monotonic(), keys_of(document))
        return self._keys[1]

    async def _redeem(self, code: str, verifier: str) -> dict[str, Any]:
        """The answer to the code at the token endpoint (section 3.1.3)."""
        offer = await self._offered()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": verifier,
        }
        secret, auth = self._settings.oidc_client_secret, None
        if secret and "client_secret_basic" in offer.token_endpoint_auth_methods_supported:
            # Both are form-encoded first (RFC 6749, section 2.3.1).
            auth = httpx.BasicAuth(quote_plus(self._client_id), quote_plus(secret))
        else:
            form |= {"client_id": self._client_id} | ({"client_secret": secret} if secret else {})
        status, answer = await self._ask("POST", offer.token_endpoint, data=form, auth=auth)
        if status == httpx.codes.OK:
            return answer
        if answer.get("error") == "invalid_grant":
            raise SignInRefused("This sign-in has expired or was used before. Sign in again.", "code")
        raise SignInUnavailable(
            AWAY, "client_refused" if answer.get("error") == "invalid_client" else "token_endpoint"
        )

    async def _get(self, url: str, access_token: str = "") -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {access_token}"} if access_token else {}
        status, answer = await self._ask("GET", url, headers=headers)
        if status != httpx.codes.OK:
            raise SignInUnavailable(AWAY, f"status_{status}")
        return answer

    async def _ask(self, method: str, url: str, **more: Any) -> tuple[int, dict[str, Any]]:
        """Status and JSON of an answer: an empty object where it holds none."""
        data = b""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                async with self._client().stream(method, url, **more) as response:
                    async for part in response.aiter_bytes():
                        data += part
                        if len(data) > MAX_BYTES:
                            raise SignInUnavailable(AWAY, "too_long")
        except (TimeoutError, httpx.TimeoutException):
            raise SignInUnavailable(AWAY, "timeout") from None
        except (httpx.HTTPError, httpx.InvalidURL):
            raise SignInUnavailable(AWAY, "away") from None
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            answer = None
        return response.status_code, answer if isinstance(answer, dict) else {}

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            headers = {"Accept": "application/json"}
            self._http = httpx.AsyncClient(headers=headers, timeout=TIMEOUT_S, follow_redirects=False)
        return self._http

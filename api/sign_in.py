"""People who sign in by OpenID Connect, and their sessions (docs/adr/0067-people-sign-in-and-sessions-are-in-the-store.md).

Nothing is stored of a sign-in that is under way. A cookie holds a random secret, and `state`, `nonce`
and the PKCE verifier follow from it: only the browser that began can complete it. A session is a record
in the store. The browser has its random token, in a cookie that no script reads.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from api.browsers import SAFE
from api.person import session_of
from contracts.errors import OriginNotAllowed, SessionEnded, SettingsError, SignInRefused
from contracts.ports.clock import Clock
from contracts.ports.session_store import SessionStore
from contracts.sessions import EVERYBODY, Session, person_id_of
from contracts.settings import ApiSettings, is_loopback
from contracts.sign_in_settings import names_of

if TYPE_CHECKING:
    from api.openid import OpenIdProvider

BEGIN: Final = "/sign-in"
CALLBACK: Final = "/sign-in/callback"
ATTEMPT_S: Final = 600
"""For how long a person may be at the provider, in seconds."""
SKEW_S: Final = 60
"""By how many seconds the clocks of two API processes may differ."""
NOT_BEGUN: Final = "This sign-in was not begun in this browser, or it is completed. Sign in again."
_ATTEMPT: Final = re.compile(r"(\d{1,12})\.[\w-]{43}", re.ASCII)
_TOKEN: Final = re.compile(r"[\w-]{43}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What follows from the secret of a sign-in that is under way. `began_at`: Unix seconds."""

    state: str
    nonce: str
    verifier: str
    began_at: int


def attempt_of(secret: str) -> Attempt | None:
    """The sign-in of that cookie; None: it is no such cookie. Pure.

    A changed time gives another state, so nobody can make an attempt longer.
    """
    match = _ATTEMPT.fullmatch(secret)
    return None if match is None else _attempt(secret, int(match[1]))


def _attempt(secret: str, began_at: int) -> Attempt:
    state, nonce, verifier = (_derived(secret, use) for use in ("state", "nonce", "verifier"))
    return Attempt(state, nonce, verifier, began_at)


class SignIn:
    """Signs people in and out. `provider` says who they are."""

    def __init__(
        self, settings: ApiSettings, provider: OpenIdProvider, sessions: SessionStore, clock: Clock
    ) -> None:
        self._settings = settings
        self._provider = provider
        self._sessions = sessions
        self._clock = clock
        self.address = (settings.public_url or "").rstrip("/") + BEGIN
        """Where a sign-in begins. Its cookie must be of the host to which the provider sends the browser back."""
        self._origin = origin_of(settings.public_url or "")
        self._secure = self._origin.startswith("https:")
        # With this prefix no other host of the same site can set the cookie (RFC 6265bis, section 4.1.3).
        prefix = "__Host-darkroom" if self._secure else "darkroom"
        self._session_cookie = f"{prefix}-session"
        self._attempt_cookie = f"{prefix}-sign-in"

    async def begin(self, answer: Response) -> str:
        """Begin a sign-in: its cookie goes into `answer`. Returns the provider's address. Raises `SignInUnavailable`."""
        now = int(self._clock.now())
        secret = f"{now}.{secrets.token_urlsafe(32)}"
        attempt = _attempt(secret, now)
        address = await self._provider.address(attempt.state, attempt.nonce, attempt.verifier)
        self._set(answer, self._attempt_cookie, secret, ATTEMPT_S)
        return address

    async def complete(self, request: Request, answer: Response) -> Session:
        """Let the person in who comes back from the provider: the session's cookie goes into `answer`.

        Raises `SignInRefused`, `SignInUnavailable`, `StoreUnavailable`.
        """
        attempt = self._attempt(request)
        query = request.query_params
        if query.get("iss", self._settings.oidc_issuer) != self._settings.oidc_issuer:  # RFC 9207
            raise SignInRefused("This answer is not of the sign-in service. Sign in again.", "issuer")
        if "error" in query:
            denied = query["error"] == "access_denied"
            raise SignInRefused("The sign-in service did not let you in.", "denied" if denied else "provider")
        if not query.get("code"):
            raise SignInRefused(NOT_BEGUN, "code")
        claims = await self._provider.claims(query["code"], attempt.nonce, attempt.verifier)
        session = session_of(claims, self._settings, self._clock.now())
        if not await self._sessions.spend(attempt.state, ATTEMPT_S + SKEW_S):
            raise SignInRefused(NOT_BEGUN, "state")
        await self.end(request, answer)
        token = secrets.token_urlsafe(32)
        await self._sessions.begin(token, session, self._settings.oidc_session_s)
        self._set(answer, self._session_cookie, token, int(self._settings.oidc_session_s))
        return session

    def forget_attempt(self, answer: Response) -> None:
        """No sign-in is under way any more."""
        self._set(answer, self._attempt_cookie, "", 0)

    async def session(self, request: Request) -> Session | None:
        """Whose session the request belongs to; None: it has none.

        A page of another site, and another origin of this one, can make a browser send the cookie. Such requests are
        refused. Raises `OriginNotAllowed`, `SessionEnded`, `StoreUnavailable`.
        """
        token = request.cookies.get(self._session_cookie)
        if not token:
            return None
        self.require_own_page(request)
        session = await self._sessions.find(token) if _TOKEN.fullmatch(token) else None
        if (
            session is None
            or session.ends_at <= self._clock.now()
            or session.issuer != self._settings.oidc_issuer
        ):
            raise SessionEnded("Your sign-in has ended. Sign in again.")
        return session

    async def end(self, request: Request, answer: Response) -> None:
        """Sign out: the session ends for every copy of its cookie. Raises `StoreUnavailable`."""
        token = request.cookies.get(self._session_cookie, "")
        if _TOKEN.fullmatch(token):
            await self._sessions.end(token)
        self._set(answer, self._session_cookie, "", 0)

    async def end_of(self, person: str | None) -> None:
        """Sign a person out everywhere: `issuer#subject`, or the id that logs have. None: everybody. Raises `StoreUnavailable`."""
        id_ = EVERYBODY if person is None else person if "#" not in person else person_id_of(person)
        await self._sessions.end_of(id_, self._clock.now(), self._settings.oidc_session_s)

    def require_own_page(self, request: Request) -> None:
        """Raises `OriginNotAllowed` unless a page of `public_url` made the request, or, where it only reads, nobody else's."""
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        safe = request.method in SAFE
        foreign = site not in (None, "same-origin", *(("none",) if safe else ()))
        if foreign or (not safe and origin != self._origin):
            raise OriginNotAllowed("Only this server's own pages may use your sign-in.")

    async def close(self) -> None:
        """Close the connections to the provider."""
        await self._provider.close()

    def _attempt(self, request: Request) -> Attempt:
        attempt = attempt_of(request.cookies.get(self._attempt_cookie, ""))
        state = request.query_params.get("state", "")
        if attempt is None or not hmac.compare_digest(attempt.state.encode(), state.encode()):
            raise SignInRefused(NOT_BEGUN, "state")
        if not -SKEW_S <= self._clock.now() - attempt.began_at <= ATTEMPT_S:
            raise SignInRefused("This sign-in took too long. Sign in again.", "late")
        return attempt

    def _set(self, answer: Response, name: str, value: str, seconds: int) -> None:
        answer.set_cookie(
            name, value, max_age=seconds, path="/", secure=self._secure, httponly=True, samesite="lax"
        )


def opened(settings: ApiSettings, sessions: SessionStore, clock: Clock) -> SignIn | None:
    """The sign-in of the settings; None: there is none, and its libraries are not loaded. Raises `SettingsError`."""
    issuer = settings.oidc_issuer
    if issuer is None:
        return None
    if not settings.oidc_client_id or settings.public_url is None:
        raise SettingsError("DARKROOM_OIDC_ISSUER needs DARKROOM_OIDC_CLIENT_ID and DARKROOM_PUBLIC_URL.")
    if not (names_of(settings.oidc_moderators) | names_of(settings.oidc_admins)):
        raise SettingsError(
            "DARKROOM_OIDC_ISSUER needs DARKROOM_OIDC_MODERATORS or DARKROOM_OIDC_ADMINS: without them nobody may sign in."
        )
    for name, url in (("OIDC_ISSUER", issuer), ("PUBLIC_URL", settings.public_url)):
        if not url.startswith("https://") and not is_loopback(urlsplit(url).hostname or ""):
            raise SettingsError(f"DARKROOM_{name} must begin with https:// where people sign in.")
    try:
        from api.openid import OpenIdProvider
    except ImportError:
        raise SettingsError(
            "DARKROOM_OIDC_ISSUER needs the extra oidc: pip install 'darkroom[oidc]'."
        ) from None
    redirect_uri = settings.public_url.rstrip("/") + CALLBACK
    return SignIn(settings, OpenIdProvider(settings, clock, redirect_uri), sessions, clock)


def origin_of(url: str) -> str:
    """The origin of an address, as browsers write it (RFC 6454, section 6.2). Pure."""
    parts = urlsplit(url)
    usual = {"https": 443, "http": 80}.get(parts.scheme)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if parts.port in (None, usual) else f":{parts.port}")


def _derived(secret: str, use: str) -> str:
    """A value that follows from a secret, and tells nothing of it or of those for other uses."""
    digest = hmac.digest(secret.encode(), use.encode(), hashlib.sha256)
    return urlsafe_b64encode(digest).decode().rstrip("=")

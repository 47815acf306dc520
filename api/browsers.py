"""Refuses requests that a browser makes on behalf of another site, on servers that need no API key.

A server without API keys serves everybody who can reach it, and a browser can reach what its user
can. A foreign page has two ways to such a server. Its own name may resolve to this server (DNS
rebinding); `Host` then holds that foreign name. Or the page sends a cross-site request; `Origin` or
`Sec-Fetch-Site` then says so (https://www.w3.org/TR/fetch-metadata/). Other programs send neither
header, and are not affected.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from api import errors
from api.fast_route import header
from contracts.errors import HostNotAllowed, OriginNotAllowed, RequestError
from contracts.settings import ApiSettings

PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths that are not guarded. They are requested by names of pods and services, and show nothing of
a tenant."""
MAX_NAME_CHARS: Final = 261
"""The length of a DNS name (RFC 1035, section 2.3.4) and a port. Longer names are not remembered."""
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""


class BrowserGuard:
    """Middleware that refuses requests of a browser for another site. For servers that need no API key."""

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        self._app = app
        self._names = known_names(settings)
        self._public = (settings.public_url or "").rstrip("/").lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with the refusal."""
        refused = self._refusal(scope) if scope["type"] == "http" else None
        if refused is None:
            await self._app(scope, receive, send)
        else:
            await errors.response(refused, errors.request_id_of(scope))(scope, receive, send)

    def _refusal(self, scope: Scope) -> RequestError | None:
        if scope["path"] in PROBES:
            return None
        host = header(scope, b"host")
        if host is None:
            return None  # today's browsers always send it
        # Nearly all requests have one of a few names, and a look-up costs less than parsing.
        if not (_is_known if len(host) <= MAX_NAME_CHARS else is_known)(host, self._names):
            return HostNotAllowed(
                "This server does not answer to that Host. Name it in DARKROOM_ALLOWED_HOSTS, or use an address or localhost."
            )
        if scope["method"] in SAFE:
            return None
        origin, site = header(scope, b"origin"), header(scope, b"sec-fetch-site")
        if site == "cross-site" or (origin is not None and not self._is_ours(origin, host)):
            return OriginNotAllowed("Pages of other sites may not change anything here.")
        return None

    def _is_ours(self, origin: str, host: str) -> bool:
        """Whether `origin` is this server. The scheme may differ: a proxy in front may terminate TLS."""
        origin = origin.lower()
        return origin.partition("://")[2] == host.lower() or origin == self._public


def known_names(settings: ApiSettings) -> frozenset[str]:
    """The names of a server with these settings, in lower case and without a port. Pure."""
    names: Iterable[str | None] = (
        "localhost",
        settings.host,
        None if settings.public_url is None else urlsplit(settings.public_url).hostname,
        *settings.allowed_hosts.split(","),
    )
    return frozenset(name.strip().lower() for name in names if name and name.strip())


def is_known(host: str, names: frozenset[str]) -> bool:
    """Whether the `Host` header `host` names this server.

    That is an IP address, which no foreign page can have as its name, or one of `names`. There,
    `.example.org` stands for all names under it. Pure.
    """
    name = _name_of(host)
    if name is None:
        return False
    return _is_address(name) or name in names or any(own[0] == "." and name.endswith(own) for own in names)


_is_known = lru_cache(maxsize=256)(is_known)


def _name_of(host: str) -> str | None:
    """The name in a `Host` header, in lower case and without its port; None: it has no name."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

"""What a browser may ask of a server that serves everybody: nothing on behalf of another site.

Where no API key is needed, reaching the server is all it takes, and a browser reaches what its user can. Two ways lead from a
foreign page to such a server. A name of that page may be made to point here (DNS rebinding): then `Host` names what we are
not. Or the page sends a request across sites: then `Origin` or `Sec-Fetch-Site` says so
(https://www.w3.org/TR/fetch-metadata/). Programs send neither, and are not affected.
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
"""Asked by the names of pods and services; they tell nothing of a tenant."""
MAX_NAME_CHARS: Final = 261
"""Of a DNS name (RFC 1035, section 2.3.4) and a port; what is longer is not remembered."""
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class BrowserGuard:
    """Refuses requests that a browser makes for another site. For servers that need no key."""

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        self._app = app
        self._names = known_names(settings)
        self._public = (settings.public_url or "").rstrip("/").lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            return None  # no browser of today
        # Nearly all requests name the same few: parsing the name is dearer than finding it.
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
        """Whether a page of `origin` is one of ours. The scheme may differ: a proxy in front may have ended TLS."""
        origin = origin.lower()
        return origin.partition("://")[2] == host.lower() or origin == self._public


def known_names(settings: ApiSettings) -> frozenset[str]:
    """The names, in lower case and without a port, that a server of these settings goes by. Pure."""
    names: Iterable[str | None] = (
        "localhost",
        settings.host,
        None if settings.public_url is None else urlsplit(settings.public_url).hostname,
        *settings.allowed_hosts.split(","),
    )
    return frozenset(name.strip().lower() for name in names if name and name.strip())


def is_known(host: str, names: frozenset[str]) -> bool:
    """Whether a `Host` header names this server: an address, which no foreign page can make its own; `localhost`; or one of
    `names`, where `.example.org` stands for all names under it. Pure."""
    name = _name_of(host)
    if name is None:
        return False
    return _is_address(name) or name in names or any(each[0] == "." and name.endswith(each) for each in names)


_is_known = lru_cache(maxsize=256)(is_known)


def _name_of(host: str) -> str | None:
    """The name of a `Host` header, in lower case and without its port; None where it has none."""
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

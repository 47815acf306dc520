"""Checks the webhook of a request, as far as this is possible without resolving a name.

What the name resolves to is checked when it is called (`runtime/checked_network.py`): only then is it known
which address is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Final

import httpx

from api.job_request import WebhookRequest
from api.normalise import invalid
from contracts.addresses import Network, forbidden, literal, parse_networks
from contracts.jobs import Webhook
from contracts.webhooks import EVENTS
from scheduler.bounds import Fault

MAX_URL_CHARS: Final = 2048
"""The longest URL of a webhook."""

# Systems also accept these as IPv4 addresses: 127.1, 0177.0.0.1, 0x7f000001, 2130706433.
_NUMERIC = re.compile(r"(?:.*\.)?(?:\d+|0x[0-9a-f]*)\.?\Z", re.IGNORECASE)

_HOST = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\Z")


def checked_webhook(webhook: WebhookRequest | None, allow_networks: str) -> Webhook | None:
    """The webhook to store with the job, with its URL in canonical form; None without one.

    `allow_networks` are the operator's own networks, as in the settings. Raises `InvalidRequest`
    with every fault.
    """
    if webhook is None:
        return None
    events = tuple(dict.fromkeys(EVENTS if webhook.events is None else webhook.events))
    faults = [*_event_faults(events)]
    try:
        url = httpx.URL(webhook.url) if _plain(webhook.url) else None
    except (httpx.InvalidURL, ValueError):
        url = None
    if len(webhook.url) > MAX_URL_CHARS:
        faults.append(("webhook.url", f"webhook.url must be at most {MAX_URL_CHARS} characters long."))
    elif url is None:
        faults.append(("webhook.url", "webhook.url must be a valid URL."))
    else:
        faults += [("webhook.url", f"webhook.url must {must}.") for must in _url_faults(url, allow_networks)][
            :1
        ]
    if faults or url is None:
        raise invalid(faults)
    return Webhook(url=str(url), events=events)


def _plain(text: str) -> bool:
    # Parsers treat backslashes and unprintable characters differently. Such texts are not parsed at all.
    return text.isprintable() and "\\" not in text and " " not in text and len(text) <= MAX_URL_CHARS


def _url_faults(url: httpx.URL, allow_networks: str) -> Iterable[str]:
    allowed = _networks(allow_networks)
    host = url.raw_host.decode("ascii").lower().rstrip(".")
    address = literal(host)
    if url.scheme not in ("https", "http") or (url.scheme == "http" and not allowed):
        yield "begin with https://"
    elif address is None and not (_HOST.match(host) and len(host) <= 253):
        yield "name a host"
    elif url.userinfo:
        yield "hold no user name or password"
    elif url.fragment:
        yield "have no fragment"
    elif url.port is not None and not 1 <= url.port <= 65_535:
        yield "name a port from 1 to 65535"
    elif address is None and _NUMERIC.match(host):
        yield "name its host by name, or by address in plain notation"
    elif (address is not None and forbidden(address, allowed)) or (not allowed and _is_localhost(host)):
        yield "be reachable from the internet: this address is not"


def _is_localhost(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost")


def _event_faults(events: Sequence[str]) -> Iterable[Fault]:
    if not events:
        yield "webhook.events", "webhook.events must name an event, or be left out for all."
    elif set(events) - set(EVENTS):
        yield "webhook.events", f"webhook.events must be of {', '.join(EVENTS)}."


@cache
def _networks(text: str) -> tuple[Network, ...]:
    return parse_networks(text)

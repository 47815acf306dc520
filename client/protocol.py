"""The protocol without I/O: request bodies and headers, parsed answers, retries, and event streams."""

from __future__ import annotations

import json
import math
import os
import random
import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

import httpx
from httpx_sse import ServerSentEvent
from pydantic import BaseModel, ValidationError

from client.errors import ServerError, error_class
from client.models import Event

Shape = TypeVar("Shape", bound=BaseModel)

DEFAULT_SERVER: Final = "http://127.0.0.1:8000"
WAIT_S: Final = 30
"""Seconds that one long poll lasts."""
CONNECT_S: Final = 15.0
"""Seconds that a connection and each write may take."""
READ_S: Final = WAIT_S + 15.0
"""Seconds until the server sends something."""
USER_AGENT: Final = {"User-Agent": "darkroom-client"}
RETRIES: Final = 4
RETRY_STATUSES: Final = frozenset({429, 502, 503, 504})
MAX_BACKOFF_S: Final = 30.0
LOST: Final = (httpx.TransportError,)


def server_address(server: str | None) -> str:
    """Returns `server`, or DARKROOM_SERVER, or the local server, without a slash at the end."""
    return (server or os.environ.get("DARKROOM_SERVER") or DEFAULT_SERVER).rstrip("/")


class Bearer(httpx.Auth):
    """Adds the API key to requests to its own server.

    Requests to another server, after a redirect or for an image's link, do not get it.
    """

    def __init__(self, server: str, api_key: str | None) -> None:
        url = httpx.URL(server)
        self._origin = (url.scheme, url.host, url.port)
        self._key = api_key or os.environ.get("DARKROOM_API_KEY")

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Adds the header to `request` if it goes to the server of the key."""
        url = request.url
        if self._key and (url.scheme, url.host, url.port) == self._origin:
            request.headers["Authorization"] = f"Bearer {self._key}"
        yield request


def prefer(wait_s: float) -> dict[str, str]:
    """Returns the header that asks the server to hold its answer; none for less than a second."""
    return {"Prefer": f"wait={int(wait_s)}"} if wait_s >= 1 else {}


def within(left_s: float = math.inf) -> httpx.Timeout:
    """Returns the timeouts of a request for which `left_s` seconds are left."""
    return httpx.Timeout(min(CONNECT_S, left_s), read=min(READ_S, left_s))


def new_idempotency_key() -> str:
    """Returns a random key for one submit."""
    return str(uuid.uuid4())


def submission(prompt: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the body of a submit. Fields that are None are left out."""
    return {"prompt": prompt, **{name: value for name, value in fields.items() if value is not None}}


def parsed(shape: type[Shape], response: httpx.Response) -> Shape:
    """Returns the answer as `shape`.

    Raises `ApiError` for a refusal, and for an answer that is not Darkroom's.
    """
    if response.is_error:
        refuse(response)
    try:
        return shape.model_validate_json(response.content)
    except ValidationError:
        raise unexpected(response) from None


def unexpected(response: httpx.Response) -> ServerError:
    """Returns the error for an answer that is not Darkroom's."""
    message = "The server's answer is not what was expected: is it a Darkroom?"
    return ServerError(message, status=response.status_code)


@dataclass(slots=True)
class Retrier:
    """Says when to try again, up to `retries` times.

    The pause is what the server's `Retry-After` asks for. Otherwise it doubles each time. It
    is never longer than `MAX_BACKOFF_S`.
    """

    retries: int = RETRIES
    tried: int = 0

    def after(self, response: httpx.Response | None) -> float | None:
        """Returns the seconds to wait before the next try.

        `response` is None after a lost connection. Returns None if there is no next try.
        """
        if response is not None and response.status_code not in RETRY_STATUSES:
            return None
        if self.tried >= self.retries:
            return None
        self.tried += 1
        requested_s = None if response is None else retry_after_s(response)
        backoff_s: float = 0.25 * 2**self.tried * random.uniform(0.75, 1.25)
        return min(MAX_BACKOFF_S, backoff_s if requested_s is None else max(requested_s, 0.0))


def retry_after_s(response: httpx.Response) -> float | None:
    """Returns the seconds of `Retry-After`; None without the header, or if it is not a number of seconds."""
    header = response.headers.get("retry-after", "")
    return float(header) if header.isascii() and header.isdigit() and len(header) < 9 else None


def refuse(response: httpx.Response) -> NoReturn:
    """Raises the `ApiError` for an answer with a status of 400 or above."""
    try:
        error = response.json()["error"]
        message, rest = str(error["message"]), dict(error)
    except (ValueError, KeyError, TypeError):
        message, rest = f"The server answered {response.status_code}.", {}
    raise error_class(response.status_code, str(rest.get("code", "")))(
        message,
        status=response.status_code,
        code=str(rest.get("code", "")),
        param=rest.get("param"),
        request_id=rest.get("request_id") or response.headers.get("x-request-id"),
        details=rest.get("details"),
        retry_after_s=retry_after_s(response),
    )


@dataclass(slots=True)
class EventReader:
    """Turns the server-sent events of several connections into events of one job.

    `last_id` is the id of the last event that was read. The next connection resumes after it.
    """

    last_id: str | None = None

    def headers(self) -> dict[str, str]:
        """Returns the headers of the next connection."""
        resume = {} if self.last_id is None else {"Last-Event-ID": self.last_id}
        return {"Accept": "text/event-stream", **resume}

    def read(self, sent: ServerSentEvent) -> Event | None:
        """Returns the event; None if it has no data.

        httpx-sse makes an event without data of each heartbeat that follows an id.
        """
        self.last_id = sent.id or self.last_id
        if not sent.data:
            return None
        try:
            data = json.loads(sent.data)
        except ValueError:
            data = sent.data
        return Event(name=sent.event, data=data, id=self.last_id)


def final(event: Event) -> bool:
    """Whether this event says that the job has ended. It is the last of its stream."""
    status = event.data.get("status") if isinstance(event.data, dict) else None
    return event.name in ("status", "snapshot") and status not in (None, "queued", "running")

"""The protocol without I/O: what to send, what an answer means, when to try again, how a stream of events is read."""

from __future__ import annotations

import json
import os
import random
import uuid
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from client.errors import ServerError, error_class
from client.models import Event

Shape = TypeVar("Shape", bound=BaseModel)

DEFAULT_SERVER: Final = "http://127.0.0.1:8000"
WAIT_S: Final = 30
"""How long one long poll is held."""
USER_AGENT: Final = {"User-Agent": "darkroom-client"}
TIMEOUT: Final = httpx.Timeout(15.0, read=WAIT_S + 15.0)
RETRIES: Final = 4
RETRY_STATUSES: Final = frozenset({429, 502, 503, 504})
MAX_BACKOFF_S: Final = 30.0
LOST: Final = (httpx.TransportError,)


def server_address(given: str | None) -> str:
    """The server: as given, or DARKROOM_SERVER, or the local one."""
    return (given or os.environ.get("DARKROOM_SERVER") or DEFAULT_SERVER).rstrip("/")


class Bearer(httpx.Auth):
    """The API key, on requests to its own server alone: not on those that a redirect or a picture's link leads away."""

    def __init__(self, server: str, api_key: str | None) -> None:
        url = httpx.URL(server)
        self._origin = (url.scheme, url.host, url.port)
        self._key = api_key or os.environ.get("DARKROOM_API_KEY")

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        url = request.url
        if self._key and (url.scheme, url.host, url.port) == self._origin:
            request.headers["Authorization"] = f"Bearer {self._key}"
        yield request


def prefer(wait_s: float) -> dict[str, str]:
    return {"Prefer": f"wait={int(wait_s)}"} if wait_s >= 1 else {}


def new_idempotency_key() -> str:
    return str(uuid.uuid4())


def submission(prompt: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a submit: what is None is not sent."""
    return {"prompt": prompt, **{name: value for name, value in fields.items() if value is not None}}


def parsed(shape: type[Shape], response: httpx.Response) -> Shape:
    """The answer, checked. Raises `ApiError` for a refusal, and for what is no answer of ours."""
    if response.is_error:
        refuse(response)
    try:
        return shape.model_validate_json(response.content)
    except ValidationError:
        message = "The server's answer is not what was expected: is it a Darkroom?"
        raise ServerError(message, status=response.status_code) from None


@dataclass(slots=True)
class Retrier:
    """When to try again: after what the server asks for, else twice as long each time, and not for ever."""

    retries: int = RETRIES
    tried: int = 0

    def after(self, response: httpx.Response | None) -> float | None:
        """Seconds to wait before another try; None: this answer, or its absence, is the last word."""
        if response is not None and response.status_code not in RETRY_STATUSES:
            return None
        if self.tried >= self.retries:
            return None
        self.tried += 1
        asked = None if response is None else retry_after_s(response)
        backoff_s: float = 0.25 * 2**self.tried * random.uniform(0.75, 1.25)
        return min(MAX_BACKOFF_S, backoff_s if asked is None else max(asked, 0.0))


def retry_after_s(response: httpx.Response) -> float | None:
    header = response.headers.get("retry-after", "")
    return float(header) if header.isascii() and header.isdigit() and len(header) < 9 else None


def refuse(response: httpx.Response) -> NoReturn:
    """Raises the `ApiError` of an answer of 400 and above."""
    try:
        error = response.json()["error"]
        message, rest = str(error["message"]), dict(error)
    except (ValueError, KeyError, TypeError):
        message, rest = f"The server answered {response.status_code}.", {}
    raise error_class(response.status_code)(
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
    """Lines of a `text/event-stream` (https://html.spec.whatwg.org/multipage/server-sent-events.html) in, events out."""

    last_id: str | None = None
    _name: str = ""
    _data: list[str] = field(default_factory=list)

    def feed(self, line: str) -> Iterator[Event]:
        """The event that `line` completes, if it does."""
        if not line:
            if self._data:
                text = "\n".join(self._data)
                try:
                    data = json.loads(text)
                except ValueError:
                    data = text
                yield Event(name=self._name or "message", data=data, id=self.last_id)
            self._name, self._data = "", []
            return
        field_name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field_name == "event":
            self._name = value
        elif field_name == "data":
            self._data.append(value)
        elif field_name == "id" and "\0" not in value:
            self.last_id = value or None


def final(event: Event) -> bool:
    """Whether the stream ends with this event: the job has ended."""
    status = event.data.get("status") if isinstance(event.data, dict) else None
    return event.name in ("status", "snapshot") and status not in (None, "queued", "running")

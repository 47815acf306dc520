"""The body of a request: read in bounded time, parsed as JSON exactly as RFC 8259 has it, checked against its model.

Our own rather than the framework's: it takes NaN for a number, UTF-16 for JSON, and deep nesting for a server error.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from email.message import Message
from functools import lru_cache
from typing import Any, Final, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from api.errors import faults_of
from api.fast_route import header
from api.job_request import EXPECTED, JobRequest
from api.normalise import invalid
from contracts.errors import MalformedBody, PayloadTooLarge, UnsupportedMediaType
from contracts.requests import MAX_SEED, OutputFormat

M = TypeVar("M", bound=BaseModel)

READ_TIMEOUT_S: Final = 15.0
MAX_DEPTH: Final = 16
"""Levels of lists and objects inside each other."""
MAX_BRACKETS: Final = 4096
"""Lists and objects in all."""
MAX_REMEMBERED: Final = 2048
MAX_REMEMBERED_BYTES: Final = 2048
FORMATS: Final[dict[str, OutputFormat]] = {"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp"}
_QUALITY = re.compile(r"(?:^|;)\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*(?:;|$)", re.IGNORECASE | re.ASCII)
_OPENING = re.compile(rb'"init_image"\s*+:\s*+"')
# A string, closed or cut off by the end, or a bracket. Possessive: each character is looked at once.
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+\\?"?|[\[\]{}]', re.DOTALL)


async def job_request(request: Request) -> JobRequest:
    """The checked body of a submit. Raises what `checked` does."""
    data = await read(request)
    if len(data) > request.app.state.services.settings.max_body_bytes:
        return with_accepted(_large(data, request), header(request.scope, b"accept") or "")
    # Bodies are immutable, and hot requests come again to the byte.
    body = _repeated(data) if len(data) <= MAX_REMEMBERED_BYTES else parse(data, JobRequest, EXPECTED)
    return with_accepted(body, header(request.scope, b"accept") or "")


def _large(data: bytes, request: Request) -> JobRequest:
    """A body that only a picture to start from may have made so long."""
    limit = request.app.state.services.settings.max_body_bytes
    body = parse(data, JobRequest, EXPECTED) if b'"init_image"' in data else None
    if body is None or not body.init_image or len(data) - _picture_bytes(data) > limit:
        raise PayloadTooLarge(f"The body must be at most {limit} bytes long, its init_image not counted.")
    return body


def _picture_bytes(data: bytes) -> int:
    """Of a body that was parsed: the length of its `init_image` as it stands there, with every escape of JSON's."""
    at = len(data)
    # The last one counts, as for the parser. Within a string the quotes would be escaped; base64 itself has none.
    while (at := data.rfind(b'"init_image"', 0, at)) >= 0:
        if found := _OPENING.match(data, at):
            return data.find(b'"', found.end()) - found.end()
    return 0


async def checked(request: Request, model: type[M], expected: Mapping[str, str]) -> M:
    """The body as a `model`; `expected` says in words what each of its fields must be.

    Raises `InvalidRequest` (not what the schema says), `MalformedBody` (not JSON), and what `read` does.
    """
    return parse(await read(request), model, expected)


async def read(request: Request) -> bytes:
    """The body. Raises `UnsupportedMediaType`, `MalformedBody` for chunks that are none, and 408 for a client that does not send
    what it announced."""
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            data = await _whole(request)
    except TimeoutError:
        raise HTTPException(408, f"The body did not arrive within {READ_TIMEOUT_S:.0f} seconds.") from None
    # Behind the body, which is bounded: an answer before its end would cost the client its connection.
    _check_content_type(header(request.scope, b"content-type") or "")
    return data


async def _whole(request: Request) -> bytes:
    declared = header(request.scope, b"content-length")
    parts: list[bytes] = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            if header(request.scope, b"transfer-encoding") is not None:
                # The server says the same of chunks that it cannot read. Where the client has left, nobody hears it.
                raise MalformedBody(
                    "The body is not in the chunked coding that its headers announce, or has no end."
                )
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        # The server may have a last, empty part to tell of the end; who knows the length need not wait for it.
        if not message.get("more_body", False) or (not parts and declared == str(len(part))):
            return b"".join([*parts, part]) if parts else part
        parts.append(part)


@lru_cache(maxsize=MAX_REMEMBERED)
def _repeated(data: bytes) -> JobRequest:
    return parse(data, JobRequest, EXPECTED)


def parse(data: bytes, model: type[M], expected: Mapping[str, str]) -> M:
    """`data` as a `model`. Pure."""
    return as_model(parse_json(data), model, expected)


def as_model(value: Any, model: type[M], expected: Mapping[str, str]) -> M:
    """`value`, which was JSON, as a `model`. Raises `InvalidRequest`. Pure."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = [dict(fault) for fault in error.errors(include_url=False, include_input=False)]
        raise invalid(faults_of(found, expected)) from None


def parse_json(data: bytes) -> Any:
    """What `data` says, as RFC 8259 has it, at most `MAX_DEPTH` deep. Raises `MalformedBody`. Pure."""
    try:
        # Decoded by us: json.loads would guess at UTF-16 and UTF-32.
        text = data.decode("utf-8")
        _check_depth(text)
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_number)
    except UnicodeDecodeError:
        raise MalformedBody("The body must be JSON in UTF-8.") from None
    except json.JSONDecodeError as error:
        raise MalformedBody(
            f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    except ValueError:
        # Python refuses to convert integers of thousands of digits.
        raise MalformedBody("The body holds a number with too many digits.") from None


def with_accepted(body: JobRequest, accept: str) -> JobRequest:
    """`body` with the picture format that an `Accept` header likes best, where the body names none. Pure."""
    if body.output_format is not None or "image/" not in accept.lower():
        return body
    liked = None
    most = 0.0
    for part in accept.split(","):
        kind, _, rest = part.partition(";")
        format_ = FORMATS.get(kind.strip().lower())
        found = _QUALITY.search(rest)
        q = float(found[1]) if found else 1.0
        if format_ is not None and q > most:
            liked, most = format_, q
    return body if liked is None else body.model_copy(update={"output_format": liked})


def _check_depth(text: str) -> None:
    # Before the parser, which builds what it reads. No body that is accepted has more brackets than this, deep or wide.
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = brackets = 0
    for found in _BRACKETS.finditer(text):
        if found[0] in ("[", "{"):
            depth, brackets = depth + 1, brackets + 1
            if depth > MAX_DEPTH:
                raise MalformedBody(f"The body is nested too deeply: at most {MAX_DEPTH} levels.")
            if brackets > MAX_BRACKETS:
                raise MalformedBody(f"The body holds too many lists and objects: at most {MAX_BRACKETS}.")
        elif found[0] in ("]", "}"):
            depth -= 1


def _number(text: str) -> float:
    # 64.0 is an integer (JSON Schema 2020-12, section 6.1.1), and the same to every client that knows only doubles.
    value = float(text)
    return int(value) if value.is_integer() and abs(value) <= MAX_SEED else value


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedBody(f"The body is not valid JSON: it has no {name}.")


def _check_content_type(header: str) -> None:
    if header != "application/json" and not _is_json(header):
        raise UnsupportedMediaType("The body must be sent as Content-Type: application/json.")


def _is_json(header: str) -> bool:
    parsed = Message()
    parsed["content-type"] = header
    charset = parsed.get_param("charset", "utf-8")
    return parsed.get_content_type() == "application/json" and str(charset).lower() in ("utf-8", "utf8")

"""The body of a request: read in bounded time, parsed as JSON exactly as in RFC 8259, checked
against its model.

The framework's own parser is not used. It accepts NaN as a number and UTF-16 as JSON, and answers
deep nesting with a server error.
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
"""How long a body may take to arrive, in seconds."""
MAX_DEPTH: Final = 16
"""The most levels of lists and objects inside each other."""
MAX_BRACKETS: Final = 4096
"""The most lists and objects in all."""
MAX_REMEMBERED: Final = 2048
"""How many parsed bodies are remembered."""
MAX_REMEMBERED_BYTES: Final = 2048
"""The longest body that is remembered."""
FORMATS: Final[dict[str, OutputFormat]] = {"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp"}
_QUALITY = re.compile(r"(?:^|;)\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*(?:;|$)", re.IGNORECASE | re.ASCII)
_OPENING = re.compile(rb'"init_image"\s*+:\s*+"')
# A string (closed, or cut off at the end) or a bracket. Possessive quantifiers: each character is read once.
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+\\?"?|[\[\]{}]', re.DOTALL)


async def job_request(request: Request) -> JobRequest:
    """The checked body of a submit. Raises what `checked` does, and `PayloadTooLarge`."""
    data = await read(request)
    if len(data) > request.app.state.services.settings.max_body_bytes:
        return with_accepted(_large(data, request), header(request.scope, b"accept") or "")
    # A parsed body is immutable, so it can be shared. Frequent requests have the same bytes each time.
    body = _repeated(data) if len(data) <= MAX_REMEMBERED_BYTES else parse(data, JobRequest, EXPECTED)
    return with_accepted(body, header(request.scope, b"accept") or "")


def _large(data: bytes, request: Request) -> JobRequest:
    """The body `data`, which is longer than the limit.

    Only an init image may make it so long. Raises `PayloadTooLarge`.
    """
    limit = request.app.state.services.settings.max_body_bytes
    body = parse(data, JobRequest, EXPECTED) if b'"init_image"' in data else None
    if body is None or not body.init_image or len(data) - _init_image_bytes(data) > limit:
        raise PayloadTooLarge(f"The body must be at most {limit} bytes long, its init_image not counted.")
    return body


def _init_image_bytes(data: bytes) -> int:
    """The length of `init_image` in the valid body `data`, in bytes and with all JSON escapes."""
    at = len(data)
    # The last one counts, as in the parser. Inside a string the quotes would be escaped; base64 has none.
    while (at := data.rfind(b'"init_image"', 0, at)) >= 0:
        if opening := _OPENING.match(data, at):
            return data.find(b'"', opening.end()) - opening.end()
    return 0


async def checked(request: Request, model: type[M], expected: Mapping[str, str]) -> M:
    """The body as a `model`. `expected` says in words what each field must be.

    Raises `InvalidRequest` (not what the schema says), `MalformedBody` (not JSON), and what `read` does.
    """
    return parse(await read(request), model, expected)


async def read(request: Request) -> bytes:
    """The bytes of the body.

    Raises `UnsupportedMediaType`, `MalformedBody` for chunks that cannot be read, `HTTPException`
    (408) for a body that does not arrive in time, and `ClientDisconnect`.
    """
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            data = await _whole(request)
    except TimeoutError:
        raise HTTPException(408, f"The body did not arrive within {READ_TIMEOUT_S:.0f} seconds.") from None
    # After the body, which is bounded. An answer before the end of the body would close the connection.
    _check_content_type(header(request.scope, b"content-type") or "")
    return data


async def _whole(request: Request) -> bytes:
    declared = header(request.scope, b"content-length")
    parts: list[bytes] = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            if header(request.scope, b"transfer-encoding") is not None:
                # The server also reports chunks that it cannot read as a disconnect. If the client
                # has left, this answer is lost.
                raise MalformedBody(
                    "The body is not in the chunked coding that its headers announce, or has no end."
                )
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        # The server may send a last, empty part. It need not be awaited if the length is known.
        if not message.get("more_body", False) or (not parts and declared == str(len(part))):
            return b"".join([*parts, part]) if parts else part
        parts.append(part)


@lru_cache(maxsize=MAX_REMEMBERED)
def _repeated(data: bytes) -> JobRequest:
    return parse(data, JobRequest, EXPECTED)


def parse(data: bytes, model: type[M], expected: Mapping[str, str]) -> M:
    """`data` as a `model`. Raises `InvalidRequest`, `MalformedBody`. Pure."""
    return as_model(parse_json(data), model, expected)


def as_model(value: Any, model: type[M], expected: Mapping[str, str]) -> M:
    """The parsed JSON `value` as a `model`. Raises `InvalidRequest`. Pure."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults = [dict(fault) for fault in error.errors(include_url=False, include_input=False)]
        raise invalid(faults_of(faults, expected)) from None


def parse_json(data: bytes) -> Any:
    """The value of `data` as JSON of RFC 8259, at most `MAX_DEPTH` deep. Raises `MalformedBody`. Pure."""
    try:
        # Decoded here: json.loads would also accept UTF-16 and UTF-32.
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
    """`body` with the image format that the header `Accept` prefers, if the body names none. Pure."""
    if body.output_format is not None or "image/" not in accept.lower():
        return body
    best = None
    best_q = 0.0
    for part in accept.split(","):
        kind, _, rest = part.partition(";")
        format_ = FORMATS.get(kind.strip().lower())
        quality = _QUALITY.search(rest)
        q = float(quality[1]) if quality else 1.0
        if format_ is not None and q > best_q:
            best, best_q = format_, q
    return body if best is None else body.model_copy(update={"output_format": best})


def _check_depth(text: str) -> None:
    # Before the parser, which allocates what it reads. Few brackets can be neither too deep nor too many.
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = brackets = 0
    for token in _BRACKETS.finditer(text):
        if token[0] in ("[", "{"):
            depth, brackets = depth + 1, brackets + 1
            if depth > MAX_DEPTH:
                raise MalformedBody(f"The body is nested too deeply: at most {MAX_DEPTH} levels.")
            if brackets > MAX_BRACKETS:
                raise MalformedBody(f"The body holds too many lists and objects: at most {MAX_BRACKETS}.")
        elif token[0] in ("]", "}"):
            depth -= 1


def _number(text: str) -> float:
    # 64.0 is an integer (JSON Schema 2020-12, section 6.1.1). Clients that only have doubles send it so.
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

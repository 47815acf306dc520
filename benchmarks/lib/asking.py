"""One request over a kept connection, and the job that it becomes."""

from __future__ import annotations

import http.client
import itertools
import json
import time
from typing import Any, Final

PROMPT: Final = "a red apple on a blue background"
SLOW: Final = "slow=5"
"""Read by the fake engine: every pass takes five seconds."""
_seeds = itertools.count(1)


class Unanswered(Exception):
    """The server did not answer, or with something else than what was asked for."""


def fresh(prompt: str = PROMPT, **more: Any) -> dict[str, Any]:
    """A request that this process has not made before."""
    return {"prompt": prompt, "seed": next(_seeds), **more}


def connect(url: str) -> http.client.HTTPConnection:
    """A connection to be kept."""
    return http.client.HTTPConnection(url.removeprefix("http://"), timeout=120)


def post(
    connection: http.client.HTTPConnection, path: str, body: object, **headers: str
) -> tuple[float, int, bytes]:
    """Milliseconds until the whole answer to `body` as JSON was there, its status, and its body."""
    data = json.dumps(body)
    begun = time.perf_counter()
    connection.request("POST", path, data, {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    found = answer.read()
    return (time.perf_counter() - begun) * 1000, answer.status, found


def draw(connection: http.client.HTTPConnection, request: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Milliseconds until the succeeded job was in the client's hands, and the job. Raises `Unanswered`."""
    took_ms, _, data = post(connection, "/v1/jobs", request, Prefer="wait=30")
    job = json.loads(data)
    if job.get("status") != "succeeded":
        raise Unanswered(data.decode())
    return took_ms, job


def submit(connection: http.client.HTTPConnection, request: dict[str, Any]) -> float:
    """Milliseconds until a new job was accepted. Raises `Unanswered`."""
    took_ms, status, data = post(connection, "/v1/jobs", request)
    if status != 202:
        raise Unanswered(data.decode())
    return took_ms

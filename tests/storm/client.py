"""Sends one request of a storm as its mode says, follows it to its end, and looks at every picture."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpx
from httpx_sse import EventSource
from PIL import Image

from tests.faults.history import TERMINAL
from tests.storm.generator import Asked, Body
from tests.storm.outcome import Outcome

END_S: Final = 330.0
"""A job ends by its deadline, 300 s by default, and one sweep."""
HOLD: Final = {"Prefer": "wait=30"}
TAKEN: Final = (200, 202)


def play(http: httpx.Client, asked: Asked) -> Outcome:
    """What became of `asked`. A client that hears nothing is a fault too."""
    outcome = Outcome(asked.index, asked.mode, asked.pictures)
    begun = time.monotonic()
    try:
        _MODES[asked.mode](http, asked, outcome)
    except (httpx.HTTPError, OSError, ValueError, KeyError, SyntaxError) as error:
        outcome.faults.append(f"{type(error).__name__}: {error}"[:300])
    outcome.seconds = round(time.monotonic() - begun, 3)
    return outcome


def _submitted(
    http: httpx.Client, body: Body, outcome: Outcome, headers: dict[str, str] | None = None
) -> dict[str, Any] | None:
    answer = http.post("/v1/jobs", json=body, headers=headers)
    if not _taken(answer, body, outcome):
        return None
    job: dict[str, Any] = answer.json()
    outcome.ended[job["id"]] = job["status"]
    return job


def _taken(answer: httpx.Response, body: Body, outcome: Outcome) -> bool:
    if outcome.refused_for_its_time(answer.status_code, answer.json().get("error"), body):
        return False
    return outcome.answered(answer.status_code, TAKEN, "submit", answer.text)


def _poll(http: httpx.Client, asked: Asked, outcome: Outcome) -> None:
    job = _submitted(http, asked.bodies[0], outcome)
    if job is not None:
        _end(http, job, asked.bodies[0], outcome, {})


def _hold(http: httpx.Client, asked: Asked, outcome: Outcome) -> None:
    job = _submitted(http, asked.bodies[0], outcome, HOLD)
    if job is not None:
        _end(http, job, asked.bodies[0], outcome, HOLD)


def _end(
    http: httpx.Client,
    job: dict[str, Any],
    body: Body,
    outcome: Outcome,
    headers: dict[str, str],
    *,
    canceled: bool = False,
) -> None:
    """Follows a job to its end, and fetches its pictures."""
    until = time.monotonic() + END_S
    while job["status"] not in TERMINAL and time.monotonic() < until:
        answer = http.get(f"/v1/jobs/{job['id']}", headers=headers)
        if not outcome.answered(answer.status_code, (200,), "read", answer.text):
            return
        job = answer.json()
        if not headers and job["status"] not in TERMINAL:
            time.sleep(0.1)
    outcome.job(job, body, may_be_canceled=canceled)
    if job["status"] == "succeeded":
        _pictures(http, job, body, outcome)


def _pictures(http: httpx.Client, job: dict[str, Any], body: Body, outcome: Outcome) -> None:
    request = job["request"]
    expected = request["width"], request["height"]
    for name in ("width", "height", "seed", "num_inference_steps", "output_format", "model"):
        if body.get(name) not in (None, "random", request[name]):
            outcome.faults.append(f"{job['id']} has {name} {request[name]}, not {body[name]}")
    if len(job["images"]) != body.get("num_images", 1):
        outcome.faults.append(f"{job['id']} has {len(job['images'])} pictures")
    for image in job["images"]:
        answer = http.get(image["url"])
        if outcome.answered(answer.status_code, (200,), "picture", answer.text[:50]):
            _looked_at(answer.content, request["output_format"], expected, outcome)


def _looked_at(data: bytes, format_: str, size: tuple[int, int] | None, outcome: Outcome) -> None:
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        if picture.format != format_.upper() or size not in (None, picture.size):
            outcome.faults.append(f"a {picture.format} of {picture.size}, not a {format_} of {size}")
    outcome.images += 1


def _events(http: httpx.Client, asked: Asked, outcome: Outcome) -> None:
    body = asked.bodies[0]
    job = _submitted(http, body, outcome)
    if job is None:
        return
    names = []
    with http.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
        if outcome.answered(answer.status_code, (200,), "events"):
            for name, data in _sent_events(answer):
                names.append(name)
                if name == "preview":
                    outcome.previews += 1
                if name == "status" and data["status"] in TERMINAL:
                    break
    if names[:1] != ["snapshot"]:
        outcome.faults.append(f"{job['id']} told {names[:3]} first")
    _end(http, job, body, outcome, {})


def _sent_events(answer: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and data of each server-sent event."""
    for event in EventSource(answer).iter_sse():
        if event.data:
            yield event.event, json.loads(event.data)


def _batch(http: httpx.Client, asked: Asked, outcome: Outcome) -> None:
    answer = http.post("/v1/jobs:batch", json={"requests": asked.bodies})
    if not outcome.answered(answer.status_code, (200, 207), "batch", answer.text):
        return
    taken = []
    for item, body in zip(answer.json()["data"], asked.bodies, strict=True):
        if item["job"] is not None:
            outcome.ended[item["job"]["id"]] = item["job"]["status"]
            taken.append((item["job"], body))
        elif not outcome.refused_for_its_time(item["status"], item["error"], body):
            outcome.faults.append(f"batch: {item}"[:300])
    for job, body in taken:
        _end(http, job, body, outcome, HOLD)


def _repeat(http: httpx.Client, asked: Asked, outcome: Outcome) -> None:
    """The same submit three times under one idempotency key, two of them at once."""
    body = asked.bodies[0]
    headers = {"Idempotency-Key": f"storm-{asked.index}-{time.time_ns()}"}
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: http.post("/v1/jobs", json=body, headers=headers), range(2)))
    answers.append(http.post("/v1/jobs", json=body, headers=headers))
    taken = [_taken(each, body, outcome) for each in answers]
    if all(taken):
        jobs = [each.json() for each in answers]
        if len({job["id"] for job in jobs}) > 1:
            outcome.faults.append(f"one key, {len({job['id'] for job in jobs})} jobs")
        outcome.ended[jobs[0]["id"]] = jobs[0]["status"]
        _end(http, jobs[0], body, outcome, HOLD)


def _cancel(http: httpx.Client, asked: Asked, outcome: Outcome) -> None:
    body = asked.bodies[0]
    job = _submitted(http, body, outcome)
    if job is None:
        return
    time.sleep(asked.pause_s)
    answer = http.post(f"/v1/jobs/{job['id']}/cancel")
    if outcome.answered(answer.status_code, (200,), "cancel", answer.text):
        _end(http, answer.json(), body, outcome, HOLD, canceled=True)


def _openai(http: httpx.Client, asked: Asked, outcome: Outcome) -> None:
    body = asked.bodies[0]
    answer = http.post("/v1/images/generations", json=body, timeout=END_S)
    if not outcome.answered(answer.status_code, (200,), "generations", answer.text):
        return
    view = answer.json()
    width, _, height = body.get("size", "auto").partition("x")
    size = (int(width), int(height)) if height else None
    if len(view["data"]) != body.get("n", 1):
        outcome.faults.append(f"{len(view['data'])} pictures of {body.get('n', 1)}")
    for image in view["data"]:
        data = http.get(image["url"]).content if "url" in image else base64.b64decode(image["b64_json"])
        _looked_at(data, view["output_format"], size, outcome)
    job = http.get(f"/v1/jobs/{answer.headers['x-job-id']}").json()
    outcome.job(job, body)


def _openai_stream(http: httpx.Client, asked: Asked, outcome: Outcome) -> None:
    body = asked.bodies[0]
    completed = 0
    with http.stream("POST", "/v1/images/generations", json=body, timeout=END_S) as answer:
        if not outcome.answered(answer.status_code, (200,), "stream"):
            return
        for name, data in _sent_events(answer):
            if name == "error":
                outcome.faults.append(f"stream: {data}"[:300])
            elif name.endswith("partial_image"):
                outcome.previews += 1
            else:
                completed += 1
                _looked_at(base64.b64decode(data["b64_json"]), data["output_format"], None, outcome)
    if completed != body.get("n", 1):
        outcome.faults.append(f"{completed} pictures of {body.get('n', 1)}")


def _spoiled(http: httpx.Client, asked: Asked, outcome: Outcome) -> None:
    answer = http.post("/v1/jobs", json=asked.bodies[0])
    if outcome.answered(answer.status_code, (404, 422), "spoiled", answer.text):
        error = answer.json()["error"]
        if error["param"] is None or not error["message"]:
            outcome.faults.append(f"a refusal that names nothing: {error}"[:300])
    elif answer.status_code in TAKEN:
        outcome.ended[answer.json()["id"]] = answer.json()["status"]


_MODES: Final[dict[str, Callable[[httpx.Client, Asked, Outcome], None]]] = {
    "poll": _poll,
    "hold": _hold,
    "events": _events,
    "batch": _batch,
    "repeat": _repeat,
    "cancel": _cancel,
    "openai": _openai,
    "openai stream": _openai_stream,
    "spoiled": _spoiled,
}

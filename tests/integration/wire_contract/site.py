"""The platform of the wire contract as its operator and its tenants see it, and what the tests ask of it."""

from __future__ import annotations

import io
import itertools
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image

from tests.integration.conftest import Stack
from tests.integration.test_events import Reader

TURBO, BASE, FAKE = "emoji-turbo", "emoji-base", "fake"
LONG = {"model": BASE, "num_inference_steps": 100, "num_images": 4}
"""Takes seconds, step by step, wherever it runs."""
ERROR = {"code", "message", "type", "param", "request_id", "details"}
# fmt: off
JOB = {
    "id", "status", "created_at", "started_at", "finished_at", "queue_position", "eta_seconds", "cache", "request", "images",
    "timings", "warnings", "error", "urls", "denoising_steps",
}
# fmt: on
SEEDS = itertools.count(1)


def fresh(**body: Any) -> dict[str, Any]:
    """A request that nobody has made before."""
    return {"prompt": "a red apple on a blue background", "seed": next(SEEDS), **body}


@dataclass
class Site:
    """The deployment as its operator, and as two tenants, see it."""

    admin: Stack
    alice: Stack
    bob: Stack
    cut_off: httpx.Client
    forgetful: httpx.Client
    worker_metrics: str

    def key(self, **fields: Any) -> dict[str, str]:
        """The header of a new API key."""
        response = self.admin.http.post("/v1/keys", json=fields)
        assert response.status_code == 201, response.text
        return {"Authorization": f"Bearer {response.json()['key']}"}

    def of_worker(self, name: str, model: str) -> float:
        """The value of a metric of the worker of `base`, or of the one that serves `model`."""
        text = httpx.get(self.worker_metrics).text
        found = re.search(rf'^{name}{{model="{model}"}} (\S+)$', text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    @contextmanager
    def held(self, worker: str) -> Iterator[None]:
        """That worker takes nothing meanwhile."""
        self.admin.kill(worker, signal.SIGSTOP)
        try:
            yield
        finally:
            self.admin.kill(worker, signal.SIGCONT)


def is_error(response: httpx.Response, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """The details of an error, which has the one shape."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == ERROR
    assert (error["code"], error["param"]) == (code, param)
    assert error["message"]
    assert error["type"]
    assert error["request_id"] == response.headers["x-request-id"]
    return error


def seconds(response: httpx.Response) -> int:
    """Its `Retry-After`."""
    value = int(response.headers["retry-after"])
    assert value >= 1
    return value


def opened_image(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def wait_until(true: Callable[[], bool], site: Site, timeout_s: float = 60.0) -> None:
    until = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until, site.admin.logs()
        time.sleep(0.05)


class Stream(Reader):
    def next_named(self) -> str | None:
        event = self.next()
        return None if event is None else event[0]

    def until(self, name: str) -> None:
        """To the next event of that name."""
        while (found := self.next_named()) != name:
            assert found is not None, self.seen

    def to_end(self) -> None:
        """Until the server closes it, as it must after the terminal event."""
        while self.next() is not None:
            continue


@contextmanager
def following(stack: Stack, job: dict[str, Any], last_id: str | None = None) -> Iterator[Stream]:
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    with stack.http.stream("GET", job["urls"]["events"], headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Stream(response.iter_lines())

"""Streams of events under Granian, between processes: real Redis and RabbitMQ, real connections that break."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from cli.services import process
from contracts.jobs import Lease
from contracts.models import WorkerInfo
from contracts.settings import BackendSettings
from contracts.transitions import Granted
from store.stores import Stores, open_stores
from tests.integration.conftest import Deploy, Stack
from tests.store.made import result
from tests.store.test_others import spec

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

PATIENCE_S = 20.0


@dataclass
class Reader:
    """Reads one stream event by event."""

    lines: Iterator[str]
    last_id: str | None = None
    seen: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def next(self) -> tuple[str, dict[str, Any]] | None:
        """The next event; None at the end of the stream. Comments and `retry` are passed over."""
        fields: dict[str, str] = {}
        for line in self.lines:
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                self.last_id = fields.get("id", self.last_id)
                self.seen.append((fields["event"], json.loads(fields["data"])))
                return self.seen[-1]
        return None


@contextmanager
def following(url: str, job: dict[str, Any], last_id: str | None = None) -> Iterator[Reader]:
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    with (
        httpx.Client(base_url=url, timeout=PATIENCE_S) as http,
        http.stream("GET", job["urls"]["events"], headers=headers) as response,
    ):
        assert response.status_code == 200, response.read()
        yield Reader(response.iter_lines())


def test_a_job_is_followed_to_its_picture(deploy: Deploy) -> None:
    stack = deploy(rabbitmq=True)
    job = stack.submit(prompt="a red apple", seed=1)
    with following(stack.url, job) as stream:
        while stream.next() is not None:
            continue
    names = [name for name, _ in stream.seen]
    assert names[0] == "snapshot"
    assert names[-2:] == ["output", "status"]
    (image,) = next(data for name, data in stream.seen if name == "output")["images"]
    assert stack.http.get(image["url"]).status_code == 200
    again = stack.http.get(job["urls"]["events"], headers={"Last-Event-ID": stream.last_id or ""})
    assert again.status_code == 204


@dataclass
class Hands:
    """What a worker does, step by step."""

    stores: Stores
    stack: Stack

    async def claim(self, job: dict[str, Any]) -> Lease:
        message = (await self.stores.jobs.get("public", job["id"])).message()
        claim = await self.stores.jobs.claim(message, "w")
        assert isinstance(claim, Granted)
        return claim.lease


async def test_a_stream_that_breaks_is_resumed_on_another_process_without_a_gap(deploy: Deploy) -> None:
    stack = await asyncio.to_thread(deploy, workers=0, rabbitmq=False, DARKROOM_EVENT_HEARTBEAT_S="0.2")
    other_port = process.free_port()
    stack.start("api", "api-2", DARKROOM_PORT=str(other_port))
    other = f"http://127.0.0.1:{other_port}"
    settings = BackendSettings(redis_url=stack.redis.url, blob_dir=stack.folder / "blobs")
    stores = open_stores(settings)
    try:
        await stores.models.announce(spec("m"), WorkerInfo(id="w", model="m", started_at=1.0))
        hands = Hands(stores, stack)
        job = await asyncio.to_thread(_submit, stack, other)

        with following(stack.url, job) as first:
            assert first.next() is not None
            lease = await hands.claim(job)
            assert await stores.jobs.progress(lease, 1, 4)
            while first.seen[-1] != ("progress", {"step": 1, "steps": 4}):
                assert await asyncio.to_thread(first.next) is not None
        # Nobody listens while this happens.
        assert await stores.jobs.progress(lease, 2, 4)
        assert await stores.jobs.progress(lease, 3, 4)

        stack.kill("api")
        with following(other, job, first.last_id) as second:
            assert await asyncio.to_thread(second.next) is not None
            while second.seen[-1] != ("progress", {"step": 3, "steps": 4}):
                assert await asyncio.to_thread(second.next) is not None
            assert (await stores.jobs.succeed(lease, result())).applied
            while await asyncio.to_thread(second.next) is not None:
                continue
        names = [name for name, _ in second.seen]
        assert "snapshot" not in names
        assert names[-2:] == ["output", "status"]
        assert int(second.last_id or 0) == (await stores.jobs.get("public", job["id"])).sequence
    finally:
        await stores.close()


async def test_a_client_that_leaves_is_noticed_and_a_silent_one_kept(deploy: Deploy) -> None:
    stack = await asyncio.to_thread(
        deploy, workers=0, rabbitmq=False, DARKROOM_EVENT_HEARTBEAT_S="0.2", DARKROOM_MAX_EVENT_STREAMS="3"
    )
    stores = open_stores(BackendSettings(redis_url=stack.redis.url, blob_dir=stack.folder / "blobs"))
    try:
        await stores.models.announce(spec("m"), WorkerInfo(id="w", model="m", started_at=1.0))
        job = await asyncio.to_thread(_submit, stack, stack.url)
    finally:
        await stores.close()
    with (
        following(stack.url, job) as one,
        following(stack.url, job) as two,
        following(stack.url, job) as three,
    ):
        for stream in (one, two, three):
            assert stream.next() is not None
        assert _open_streams(stack) == 3
        refused = stack.http.get(job["urls"]["events"])
        assert refused.json()["error"]["code"] == "too_many_streams"
        for line in one.lines:
            if line.startswith(":"):
                break
    until = time.monotonic() + PATIENCE_S
    while _open_streams(stack):
        assert time.monotonic() < until
        await asyncio.sleep(0.05)


def _submit(stack: Stack, url: str) -> dict[str, Any]:
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            response = httpx.post(f"{url}/v1/jobs", json={"prompt": "a", "num_inference_steps": 4})
        except httpx.TransportError:
            response = None
        if response is not None and response.status_code == 202:
            job: dict[str, Any] = response.json()
            return job
        assert time.monotonic() < until, stack.logs()
        time.sleep(0.1)


def _open_streams(stack: Stack) -> int:
    found = re.search(r"^darkroom_event_streams (\S+)$", stack.http.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))

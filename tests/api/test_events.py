"""Server-sent events: what is told, in which order, and that a stream may break anywhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import REGISTRY
from starlette.types import ASGIApp

from contracts.errors import StoreUnavailable
from contracts.jobs import ImageRef, JobFailure, JobResult, Lease, Preview, Timings
from contracts.transitions import Granted
from tests.api.conftest import ApiUnderTest, Opener

pytestmark = pytest.mark.anyio

PATIENCE_S = 30.0


@dataclass
class Event:
    name: str
    data: dict[str, Any]
    id: int | None


@dataclass
class Stream:
    """A client of one stream, by the parsing rules of the HTML standard."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    last_id: int | None = None
    comments: int = 0
    arrived: asyncio.Queue[Event | None] = field(default_factory=asyncio.Queue)

    async def next(self) -> Event:
        async with asyncio.timeout(PATIENCE_S):
            event = await self.arrived.get()
        assert event is not None, "the stream has ended"
        return event

    async def rest(self) -> list[Event]:
        found = []
        async with asyncio.timeout(PATIENCE_S):
            while (event := await self.arrived.get()) is not None:
                found.append(event)
        return found

    def take(self, text: str) -> None:
        for block in filter(None, text.split("\n\n")):
            fields: dict[str, str] = {}
            for line in block.split("\n"):
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
            if "" in fields:
                self.comments += 1
            if "data" in fields:
                number = int(fields["id"]) if "id" in fields else None
                self.last_id = self.last_id if number is None else number
                self.arrived.put_nowait(Event(fields["event"], json.loads(fields["data"]), number))


def app_of(api: ApiUnderTest) -> ASGIApp:
    transport: Any = api.http._transport
    app: ASGIApp = transport.app
    return app


@asynccontextmanager
async def opened_stream(
    api: ApiUnderTest,
    job_id: str,
    last_id: int | str | None = None,
    method: str = "GET",
    key: str | None = None,
) -> AsyncIterator[Stream]:
    """A stream over ASGI, for httpx's own transport hands nothing out before the end. Leaving it hangs up."""
    stream, hung_up, asked = Stream(), asyncio.Event(), False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            stream.status = message["status"]
            stream.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            stream.take(message["body"].decode())
            if not message.get("more_body"):
                stream.arrived.put_nowait(None)

    path = f"/v1/jobs/{job_id}/events"
    headers = [] if last_id is None else [(b"last-event-id", str(last_id).encode())]
    if key is not None:
        headers.append((b"x-api-key", key.encode()))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "server": ("test", 80),
        "client": ("127.0.0.1", 1),
        "state": {},
    }
    serving: asyncio.Task[None] = asyncio.create_task(app_of(api)(scope, receive, send))  # type: ignore[arg-type]
    try:
        yield stream
    finally:
        hung_up.set()
        async with asyncio.timeout(PATIENCE_S):
            await serving


async def claimed(api: ApiUnderTest) -> Lease:
    claim = await api.stores.jobs.claim(api.publisher.published[-1], "w")
    assert isinstance(claim, Granted)
    return claim.lease


def result() -> JobResult:
    image = ImageRef(
        name="0" * 64 + ".png", width=64, height=64, seed=1, content_type="image/png", size_bytes=9
    )
    return JobResult(images=(image,), timings=Timings(queued_ms=1, batch_ms=2, encode_ms=3, batch_size=4))


async def test_a_job_is_followed_from_queue_to_picture(api: ApiUnderTest) -> None:
    job = await api.submit(num_inference_steps=2)
    assert job["urls"]["events"] == f"/v1/jobs/{job['id']}/events"
    async with opened_stream(api, job["id"]) as stream:
        snapshot = await stream.next()
        assert (snapshot.name, snapshot.data) == ("snapshot", job)
        lease = await claimed(api)
        running = await stream.next()
        assert (running.name, running.data["status"]) == ("status", "running")
        for step in (1, 2):
            await api.stores.jobs.progress(lease, step, 2)
            progress = await stream.next()
            assert (progress.name, progress.data) == ("progress", {"step": step, "steps": 2})
        assert (await api.http.get(job["urls"]["self"])).json()["progress"] == {"step": 2, "steps": 2}
        await api.stores.jobs.succeed(lease, result())
        output, end = await stream.rest()
        assert (output.name, end.name, end.data["status"]) == ("output", "status", "succeeded")
        assert output.data["images"] == (await api.http.get(job["urls"]["self"])).json()["images"]
        numbers = [each.id for each in (snapshot, running, progress, end) if each.id is not None]
        assert numbers == sorted(set(numbers))
    assert stream.status == 200
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert "no-transform" in stream.headers["cache-control"]
    assert stream.headers["x-accel-buffering"] == "no"
    assert "content-length" not in stream.headers


async def test_previews_come_in_passing(api: ApiUnderTest) -> None:
    job = await api.submit(num_inference_steps=4, previews=2)
    follower = await api.submit(num_inference_steps=4)
    async with opened_stream(api, job["id"]) as stream, opened_stream(api, follower["id"]) as other:
        await stream.next()
        lease = await claimed(api)
        await stream.next()
        for index in range(2):
            await api.stores.jobs.preview(lease, Preview(index=index, name=f"{index}.png"))
            preview = await stream.next()
            assert (preview.name, preview.id) == ("preview", None)
            assert preview.data == {"index": index, "url": f"/v1/images/{index}.png"}
        # Of an attempt before, and for another who asked for more.
        for index in (0, 2):
            await api.stores.jobs.preview(lease, Preview(index=index, name="f.png"))
        await api.stores.jobs.succeed(lease, result())
        assert [each.name for each in await stream.rest()] == ["output", "status"]
        assert {each.name for each in await other.rest()} == {"snapshot", "output", "status"}


async def test_a_job_that_has_ended_is_told_at_once(api: ApiUnderTest) -> None:
    job = await api.submit()
    await api.work()
    async with opened_stream(api, job["id"]) as stream:
        events = await stream.rest()
    assert [event.name for event in events] == ["snapshot", "output", "status"]
    assert events[0].data["status"] == events[2].data["status"] == "succeeded"


async def test_a_failed_job_ends_with_its_error(api: ApiUnderTest) -> None:
    job = await api.submit()
    async with opened_stream(api, job["id"]) as stream:
        await stream.next()
        await api.stores.jobs.fail(await claimed(api), JobFailure(code="invalid_output", message="Black."))
        events = await stream.rest()
    assert [event.name for event in events][-1] == "status"
    assert events[-1].data["error"] == {"code": "invalid_output", "message": "Black.", "retryable": False}


async def test_a_stream_may_break_anywhere_and_resumes_without_a_gap(api: ApiUnderTest) -> None:
    """For every point in a job's life at which one may leave, and every later one at which one may come back."""

    async def life(until: int, stop: int, job_id: str, known: int | None) -> tuple[list[Event], int | None]:
        """Watch from point `until` of the life to point `stop`; the events, and the last id seen."""
        async with opened_stream(api, job_id, known) as stream:
            stream.last_id = known
            for point in range(until, stop):
                await points[point]()
            await api.stores.jobs.get("public", job_id)
            if stop == len(points):
                return await stream.rest(), stream.last_id
            # All that is told by now is told once the stream stands still.
            reached = (await api.stores.jobs.get("public", job_id)).sequence
            found: list[Event] = []
            while (stream.last_id or 0) < reached or (known is None and not found):
                found.append(await stream.next())
            while not stream.arrived.empty():
                found.append(await stream.next())
            return found, stream.last_id

    for leave in range(1, 5):
        for back in range(leave, 6):
            job = await api.submit(seed=leave * 10 + back, num_inference_steps=2)
            lease: list[Lease] = []

            async def claim(lease: list[Lease] = lease) -> None:
                lease.append(await claimed(api))

            async def step_one(lease: list[Lease] = lease) -> None:
                await api.stores.jobs.progress(lease[0], 1, 2)

            async def step_two(lease: list[Lease] = lease) -> None:
                await api.stores.jobs.progress(lease[0], 2, 2)

            async def end(lease: list[Lease] = lease) -> None:
                await api.stores.jobs.succeed(lease[0], result())

            async def nothing() -> None:
                return

            points = [nothing, claim, step_one, step_two, end]
            seen, last_id = await life(0, leave, job["id"], None)
            for point in range(leave, back):
                if point < len(points):
                    await points[point]()
            if back >= len(points):
                after, _ = await life(len(points), len(points), job["id"], last_id)
            else:
                after, _ = await life(back, len(points), job["id"], last_id)
            names = [event.name for event in after]
            assert "snapshot" not in names, "who resumes knows where it began"
            assert names[-2:] == ["output", "status"]
            numbers = [event.id for event in seen + after if event.id is not None]
            assert numbers == sorted(set(numbers)), "never backwards, never twice"
            record = await api.stores.jobs.get("public", job["id"])
            assert numbers[-1] == record.sequence, "nothing is left untold"


async def test_who_has_heard_the_end_is_told_not_to_come_back(api: ApiUnderTest) -> None:
    job = await api.submit()
    await api.work()
    async with opened_stream(api, job["id"]) as first:
        await first.rest()
    assert first.last_id is not None
    async with opened_stream(api, job["id"], first.last_id) as again:
        assert await again.rest() == []
    assert again.status == 204


@pytest.mark.parametrize("last_id", ["", "x", "-1", "99", "9" * 400, "\u00b2"])
async def test_an_id_that_is_none_of_ours_gets_a_snapshot(api: ApiUnderTest, last_id: str) -> None:
    job = await api.submit()
    async with opened_stream(api, job["id"], last_id) as stream:
        assert (await stream.next()).name == "snapshot"


async def test_an_end_between_two_events_is_told_again(api: ApiUnderTest) -> None:
    """Pictures and end are one change: who left after the pictures has not heard it."""
    job = await api.submit()
    await api.work()
    async with opened_stream(api, job["id"], 1) as stream:
        output, end = await stream.rest()
    assert (output.name, output.id, end.name, end.id) == ("output", None, "status", 2)


async def test_a_place_in_the_queue_moves_without_a_change_of_the_record(api: ApiUnderTest) -> None:
    ahead = await api.submit(seed=1)
    api.clock.advance(0.01)
    job = await api.submit(seed=2)
    async with opened_stream(api, job["id"]) as stream:
        assert (await stream.next()).data["queue_position"] == 1
        await api.http.post(ahead["urls"]["cancel"])
        moved = await stream.next()
    assert (moved.name, moved.data["status"], moved.data["queue_position"]) == ("status", "queued", 0)
    assert moved.id is None


async def test_a_silent_stream_beats(opened: Opener) -> None:
    api = await opened(event_heartbeat_s=0.05)
    job = await api.submit()
    async with opened_stream(api, job["id"]) as stream:
        await stream.next()
        async with asyncio.timeout(PATIENCE_S):
            while stream.comments < 3:
                await asyncio.sleep(0.01)
            assert stream.arrived.empty(), "beats are no events"


async def test_streams_are_bounded_and_a_client_that_leaves_makes_room(opened: Opener) -> None:
    api = await opened(max_event_streams=2)
    job = await api.submit()
    async with opened_stream(api, job["id"]) as first, opened_stream(api, job["id"]) as second:
        await first.next()
        await second.next()
        assert REGISTRY.get_sample_value("darkroom_event_streams") == 2
        refused = await api.http.get(f"/v1/jobs/{job['id']}/events")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_streams")
        assert int(refused.headers["retry-after"]) >= 1
    assert REGISTRY.get_sample_value("darkroom_event_streams") == 0
    async with opened_stream(api, job["id"]) as stream:
        await stream.next()


async def test_a_process_that_ends_lets_its_streams_go(api: ApiUnderTest) -> None:
    job = await api.submit()
    app: Any = app_of(api)
    async with opened_stream(api, job["id"]) as stream:
        await stream.next()
        app.state.services.let_go()
        assert await stream.rest() == []


async def test_a_store_that_goes_away_ends_the_stream(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await api.submit()
    async with opened_stream(api, job["id"]) as stream:
        await stream.next()

        async def away(*_: Any) -> Any:
            raise StoreUnavailable("The store did not answer.")

        lease = await claimed(api)
        monkeypatch.setattr(api.stores.jobs, "get", away)
        await api.stores.jobs.progress(lease, 1, 2)
        assert all(event.name == "status" for event in await stream.rest())


async def test_head_of_a_stream_does_not_hang(api: ApiUnderTest) -> None:
    job = await api.submit()
    async with opened_stream(api, job["id"], method="HEAD") as stream:
        assert await stream.rest() == []
    assert stream.status == 200


async def test_a_stream_of_nobodys_job_is_a_404(api: ApiUnderTest) -> None:
    response = await api.http.get("/v1/jobs/job_0/events")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "job_not_found")

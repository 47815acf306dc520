"""OpenAI's Images API over jobs: what becomes of jobs that bear no picture. Its own client is in tests/integration."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from contracts.jobs import ImageRef, JobFailure, JobResult, Preview, Timings
from contracts.transitions import Granted
from tests.api.conftest import PICTURE, ApiUnderTest, Opener

pytestmark = pytest.mark.anyio

PATH = "/v1/images/generations"


async def asked(api: ApiUnderTest, count: int = 1, **body: Any) -> asyncio.Task[Any]:
    """A request that is held for its job, which has been published."""
    asking = asyncio.create_task(api.http.post(PATH, json={"prompt": "a red apple", **body}))
    async with asyncio.timeout(5):
        while len(api.publisher.published) < count:
            await asyncio.sleep(0.01)
    return asking


async def answered(asking: asyncio.Task[Any]) -> Any:
    async with asyncio.timeout(5):
        return await asking


async def test_the_answer_is_the_picture_and_names_its_job(api: ApiUnderTest) -> None:
    asking = await asked(api)
    await api.work()
    response = await answered(asking)
    assert response.status_code == 200
    body = response.json()
    assert base64.b64decode(body["data"][0]["b64_json"]) == PICTURE
    assert (await api.http.get(f"/v1/jobs/{response.headers['x-job-id']}")).json()["status"] == "succeeded"
    again = await api.http.post(PATH, json={"prompt": "a red apple", "response_format": "url"})
    (image,) = again.json()["data"]
    assert image["url"].startswith("http://localhost/v1/images/")
    assert "b64_json" not in image


async def test_the_operator_says_where_pictures_are_found(opened: Opener) -> None:
    api = await opened(public_url="https://pictures.example.org/")
    asking = await asked(api, response_format="url")
    await api.work()
    url = (await answered(asking)).json()["data"][0]["url"]
    assert url.startswith("https://pictures.example.org/v1/images/")


async def test_partial_images_come_before_the_picture_and_only_to_those_who_ask(api: ApiUnderTest) -> None:
    asked_body = {"stream": True, "num_inference_steps": 4}
    asking = await asked(api, partial_images=2, **asked_body)
    other = asyncio.create_task(api.http.post(PATH, json={"prompt": "a red apple", **asked_body}))
    claim = await api.stores.jobs.claim(api.publisher.published[-1], "w")
    assert isinstance(claim, Granted)
    name = await api.stores.blobs.put(b"\x89PNG so far", "png")
    async with asyncio.timeout(5):
        while len(await api.stores.jobs.list("public", 10)) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # both listen
    await api.stores.jobs.preview(claim.lease, Preview(index=0, name=name))
    await api.stores.jobs.preview(claim.lease, Preview(index=1, name="0" * 64 + ".png"))  # deleted since
    image = ImageRef(name=name, width=64, height=64, seed=1, content_type="image/png", size_bytes=11)
    timings = Timings(queued_ms=1, batch_ms=2, encode_ms=3, batch_size=1)
    await api.stores.jobs.succeed(claim.lease, JobResult(images=(image,), timings=timings))
    mine, theirs = await answered(asking), await answered(other)
    events = [line.removeprefix("event: ") for line in mine.text.splitlines() if line.startswith("event: ")]
    assert events == ["image_generation.partial_image", "image_generation.completed"]
    data = json.loads(
        next(line for line in mine.text.splitlines() if line.startswith("data: ")).removeprefix("data: ")
    )
    assert (base64.b64decode(data["b64_json"]), data["partial_image_index"]) == (b"\x89PNG so far", 0)
    assert "partial_image" not in theirs.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_is_told_and_not_to_be_asked_for_again(api: ApiUnderTest, stream: bool) -> None:
    asking = await asked(api, stream=stream)
    claim = await api.stores.jobs.claim(api.publisher.published[-1], "w")
    assert isinstance(claim, Granted)
    await api.stores.jobs.fail(claim.lease, JobFailure(code="invalid_output", message="It is black."))
    response = await answered(asking)
    if stream:
        event, _, data = response.text.strip().rpartition("\n")
        assert event.endswith("event: error")
        body = json.loads(data.removeprefix("data: "))
    else:
        assert response.status_code == 502
        assert response.headers["x-should-retry"] == "false"
        body = response.json()
    assert (body["error"]["code"], body["error"]["message"]) == ("generation_failed", "It is black.")
    assert body["error"]["details"]["code"] == "invalid_output"


async def test_a_job_that_took_too_long_may_be_asked_for_again(opened: Opener) -> None:
    api = await opened(job_ttl_s=5)
    asking = await asked(api)
    api.clock.advance(6)
    await api.stores.jobs.sweep(api.publisher.published[0].job_id[-1], 10)
    response = await answered(asking)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "job_expired")
    assert int(response.headers["retry-after"]) >= 1


async def test_who_cannot_be_held_leaves_no_job_behind(api: ApiUnderTest) -> None:
    transport: Any = api.http._transport
    transport.app.state.services.let_go()
    response = await api.http.post(PATH, json={"prompt": "a red apple"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "too_many_streams")
    (job,) = (await api.http.get("/v1/jobs")).json()["data"]
    assert job["status"] == "canceled"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("name", ["edits", "variations"])
async def test_what_is_not_offered_is_not_found(api: ApiUnderTest, name: str, method: str) -> None:
    response = await api.http.request(method, f"/v1/images/{name}", files={"image": b"x"})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (404, "not_found")
    assert f"/v1/images/{name} is not offered" in error["message"]
    assert "allow" not in response.headers


@asynccontextmanager
async def reading(api: ApiUnderTest, **body: Any) -> AsyncIterator[asyncio.Queue[bytes]]:
    """What arrives of a streamed answer; leaving it hangs up."""
    data = json.dumps({"prompt": "a red apple", "stream": True, **body}).encode()
    messages = [{"type": "http.request", "body": data, "more_body": False}]
    arrived: asyncio.Queue[bytes] = asyncio.Queue()
    hung_up = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        arrived.put_nowait(message.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": PATH,
        "raw_path": PATH.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json")],
        "server": ("test", 80),
        "client": ("127.0.0.1", 1),
        "state": {},
    }
    transport: Any = api.http._transport
    serving = asyncio.create_task(transport.app(scope, receive, send))
    try:
        async with asyncio.timeout(5):
            await arrived.get()  # the headers
        yield arrived
    finally:
        hung_up.set()
        async with asyncio.timeout(5):
            await serving


async def test_a_stream_that_nobody_reads_takes_its_waiting_job_along(api: ApiUnderTest) -> None:
    async with reading(api) as arrived, asyncio.timeout(5):
        assert b"still here" in await arrived.get()
    (job,) = (await api.http.get("/v1/jobs")).json()["data"]
    assert job["status"] == "canceled"


async def test_a_stream_that_nobody_reads_leaves_the_job_of_another_alone(api: ApiUnderTest) -> None:
    mine = await api.submit()
    async with reading(api) as arrived, asyncio.timeout(5):
        await arrived.get()
    jobs = {job["id"]: job for job in (await api.http.get("/v1/jobs")).json()["data"]}
    assert jobs.pop(mine["id"])["status"] == "queued"
    (other,) = jobs.values()
    assert (other["cache"], other["status"]) == ("joined", "canceled")


async def test_a_stream_that_nobody_reads_lets_a_picture_be_finished(api: ApiUnderTest) -> None:
    async with reading(api) as arrived, asyncio.timeout(5):
        await arrived.get()
        claim = await api.stores.jobs.claim(api.publisher.published[-1], "w")
        assert isinstance(claim, Granted)
    (job,) = (await api.http.get("/v1/jobs")).json()["data"]
    assert job["status"] == "running"


async def test_a_stream_that_cannot_be_opened_leaves_no_job_behind(opened: Opener) -> None:
    api = await opened(max_event_streams=1)
    async with reading(api):
        response = await api.http.post(PATH, json={"prompt": "another", "stream": True})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "too_many_streams")
        jobs = (await api.http.get("/v1/jobs")).json()["data"]
        assert {job["request"]["prompt"]: job["status"] for job in jobs} == {
            "a red apple": "queued",
            "another": "canceled",
        }

"""OpenAI's Images API over jobs: what becomes of jobs that bear no picture. Its own client is in tests/integration."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from contracts.jobs import JobFailure
from contracts.ports import Granted
from tests.api.conftest import PICTURE, Door, Opener

pytestmark = pytest.mark.anyio

PATH = "/v1/images/generations"


async def asked(door: Door, count: int = 1, **body: Any) -> asyncio.Task[Any]:
    """A request that is held for its job, which has been published."""
    asking = asyncio.create_task(door.http.post(PATH, json={"prompt": "a red apple", **body}))
    async with asyncio.timeout(5):
        while len(door.publisher.published) < count:
            await asyncio.sleep(0.01)
    return asking


async def answered(asking: asyncio.Task[Any]) -> Any:
    async with asyncio.timeout(5):
        return await asking


async def test_the_answer_is_the_picture_and_names_its_job(door: Door) -> None:
    asking = await asked(door)
    await door.work()
    response = await answered(asking)
    assert response.status_code == 200
    body = response.json()
    assert base64.b64decode(body["data"][0]["b64_json"]) == PICTURE
    assert (await door.http.get(f"/v1/jobs/{response.headers['x-job-id']}")).json()["status"] == "succeeded"
    again = await door.http.post(PATH, json={"prompt": "a red apple", "response_format": "url"})
    (image,) = again.json()["data"]
    assert image["url"].startswith("http://test/v1/images/")
    assert "b64_json" not in image


async def test_the_operator_says_where_pictures_are_found(opened: Opener) -> None:
    door = await opened(public_url="https://pictures.example.org/")
    asking = await asked(door, response_format="url")
    await door.work()
    url = (await answered(asking)).json()["data"][0]["url"]
    assert url.startswith("https://pictures.example.org/v1/images/")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_is_told_and_not_to_be_asked_for_again(door: Door, stream: bool) -> None:
    asking = await asked(door, stream=stream)
    claim = await door.stores.jobs.claim(door.publisher.published[-1], "w")
    assert isinstance(claim, Granted)
    await door.stores.jobs.fail(claim.lease, JobFailure(code="invalid_output", message="It is black."))
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
    door = await opened(job_ttl_s=5)
    asking = await asked(door)
    door.clock.advance(6)
    await door.stores.jobs.sweep(door.publisher.published[0].job_id[-1], 10)
    response = await answered(asking)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "job_expired")
    assert int(response.headers["retry-after"]) >= 1


async def test_who_cannot_be_held_leaves_no_job_behind(door: Door) -> None:
    transport: Any = door.http._transport
    transport.app.state.services.let_go()
    response = await door.http.post(PATH, json={"prompt": "a red apple"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "too_many_streams")
    (job,) = (await door.http.get("/v1/jobs")).json()["data"]
    assert job["status"] == "canceled"

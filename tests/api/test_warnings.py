"""Warnings: what a request asks for and the model does not read is said, on every way that a job is shown."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.api.conftest import ApiUnderTest
from views.warnings import NOBODY

pytestmark = pytest.mark.anyio


async def test_a_job_says_it_from_the_start_and_a_hit_too(api: ApiUnderTest) -> None:
    job = await api.submit(negative_prompt="blurred")
    assert [each.partition(":")[0] for each in job["warnings"]] == ["negative_prompt is not read"]
    await api.work()
    done = (await api.http.get(job["urls"]["self"])).json()
    assert done["warnings"] == ["cut", *job["warnings"]], "the engine's own come first"
    plain = await api.http.post("/v1/jobs", json={"prompt": "a red apple"})
    assert plain.json()["cache"] == "hit"
    assert plain.json()["warnings"] == ["cut"], "the same picture, and a request without fault"
    again = await api.http.post("/v1/jobs", json={"prompt": "a red apple", "negative_prompt": "blurred"})
    assert again.json()["cache"] == "hit"
    assert again.json()["warnings"] == done["warnings"]


async def test_a_job_that_nobody_serves_says_both(api: ApiUnderTest) -> None:
    ((worker,),) = [served.workers for served in (await api.stores.models.models()).models]
    await api.stores.models.withdraw(worker)
    job = await api.submit(negative_prompt="blurred")
    assert job["warnings"][0] == NOBODY
    assert job["warnings"][1].startswith("negative_prompt is not read")


@pytest.mark.parametrize("stream", [False, True])
async def test_openais_route_says_it_in_a_header(api: ApiUnderTest, stream: bool) -> None:
    body = {"prompt": "a (red:1.5) apple", "negative_prompt": "blurred", "stream": stream}
    asking = asyncio.create_task(api.http.post("/v1/images/generations", json=body))
    async with asyncio.timeout(5):
        while not api.publisher.published:
            await asyncio.sleep(0.01)
        await api.work()
        response = await asking
    assert response.status_code == 200
    warnings = json.loads(response.headers["x-warnings"])
    assert [each.split()[0] for each in warnings] == [
        *([] if stream else ["cut"]),
        "negative_prompt",
        "prompt",
    ]

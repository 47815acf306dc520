"""Batches of requests, on two applications that share one Redis and one RabbitMQ."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.api.two_applications import Site
from tests.api.two_applications import site as site

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_a_batch_takes_each_request_by_itself(site: Site) -> None:
    headers = await site.key("acme", concurrent_jobs=200)
    requests: list[Any] = [{"prompt": f"number {i}"} for i in range(256)]
    requests[3], requests[5], requests[7] = {"prompt": ""}, "nonsense", {"prompt": "a", "model": "no such"}
    started = time.perf_counter()
    response = await site.http[0].post("/v1/jobs:batch", json={"requests": requests}, headers=headers)
    took_s = time.perf_counter() - started
    assert response.status_code == 207
    answer = response.json()
    assert (answer["accepted"], answer["refused"]) == (200, 56)
    assert [item["index"] for item in answer["data"]] == list(range(256))
    bad = {index: answer["data"][index] for index in (3, 5, 7)}
    assert [item["status"] for item in bad.values()] == [422, 422, 404]
    assert bad[3]["error"]["param"] == "prompt"
    assert bad[7]["error"]["code"] == "model_not_found"
    assert {item["status"] for item in answer["data"]} == {202, 404, 422, 429}
    full = [item for item in answer["data"] if item["status"] == 429]
    assert len(full) == 53
    assert all(item["job"] is None and item["retry_after_s"] >= 1 for item in full)
    accepted = [item["job"]["id"] for item in answer["data"] if item["status"] == 202]
    assert len(set(accepted)) == 200 == site.published()
    print(f"batch: 256 requests, 200 accepted, in {took_s:.2f} s")


async def test_a_batch_with_an_idempotency_key_is_one_batch(site: Site) -> None:
    headers = {**await site.key("acme"), "Idempotency-Key": "b"}
    body = {"requests": [{"prompt": f"number {i}", "seed": "random"} for i in range(20)]}
    first, second = await asyncio.gather(
        *(http.post("/v1/jobs:batch", json=body, headers=headers) for http in site.http)
    )
    assert (first.status_code, second.status_code) == (200, 200)
    ids = [[item["job"]["id"] for item in each.json()["data"]] for each in (first, second)]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 20

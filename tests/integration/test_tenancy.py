"""Idempotency keys and an API that is killed in the middle: one job, whatever was under way."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import httpx
import pytest

from tests.integration.conftest import Deploy

pytestmark = pytest.mark.slow

COPIES = 12


@pytest.mark.timeout(240)
def test_a_killed_api_neither_blocks_a_key_nor_doubles_its_job(deploy: Deploy) -> None:
    """The moment of the kill moves from round to round across reservation, record, publish and answer."""
    stack = deploy(workers=1)
    accepted: set[str] = set()
    broken = 0
    for round_ in range(6):
        key, body = f"order-{round_}", {"prompt": f"number {round_}", "seed": "random"}
        headers = {"Idempotency-Key": key}
        begun = Barrier(COPIES + 1)
        with ThreadPoolExecutor(COPIES) as pool, httpx.Client(base_url=stack.url, timeout=20) as http:
            http.get("/healthz")
            answers = [pool.submit(_post, http, begun, body, headers) for _ in range(COPIES)]
            begun.wait()
            time.sleep(0.04 * round_)
            stack.kill("api")
            told = {job["id"] for answer in answers if (job := answer.result()) is not None}
        broken += sum(answer.result() is None for answer in answers)
        stack.processes["api"].wait()
        stack.start("api", "api")
        stack.wait_ready(1)
        response = stack.http.post("/v1/jobs", json=body, headers=headers)
        assert response.status_code == 202, response.text
        job = response.json()
        assert told <= {job["id"]}, "what was told before the crash holds"
        assert stack.http.post("/v1/jobs", json={"prompt": "other"}, headers=headers).status_code == 422
        assert stack.ended(job)["status"] == "succeeded"
        accepted.add(job["id"])
    listed = stack.http.get("/v1/jobs", params={"limit": 100}).json()["data"]
    assert {job["id"] for job in listed} == accepted
    assert len(listed) == 6
    assert broken > 0, "a kill that broke no request showed nothing"
    print(f"{broken} of {6 * COPIES} copies were cut off; 6 keys, 6 jobs")


def _post(
    http: httpx.Client, begun: Barrier, body: dict[str, Any], headers: dict[str, str]
) -> dict[str, Any] | None:
    """The job, or None where the connection broke before the answer."""
    begun.wait()
    try:
        response = http.post("/v1/jobs", json=body, headers=headers)
    except httpx.TransportError:
        return None
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json()
    return job

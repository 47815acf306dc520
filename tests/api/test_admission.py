"""Jobs that cannot end in time are refused."""

from __future__ import annotations

import pytest

from tests.api.conftest import Opener

pytestmark = pytest.mark.anyio


async def test_what_cannot_be_done_in_time_is_refused_by_the_api(opened: Opener) -> None:
    api = await opened(job_ttl_s=10)  # the worker does ten images a second
    waiting = [await api.submit(seed=number) for number in range(80)]
    api.clock.advance(1)
    response = await api.http.post("/v1/jobs", json={"prompt": "a red apple", "seed": 1000})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "queue_full"
    assert "about 8 s" in response.json()["error"]["message"]
    assert int(response.headers["retry-after"]) >= 1
    assert (await api.submit(seed=79))["cache"] == "joined", "what costs nothing is welcome"
    for job in waiting[:10]:
        await api.http.post(job["urls"]["cancel"])
    api.clock.advance(1)
    assert (await api.submit(seed=1000))["cache"] == "miss"

"""The models that are served: the default, those that nobody serves now, and those that are unknown."""

from __future__ import annotations

import pytest

from contracts.models import WorkerInfo
from tests.api.conftest import ApiUnderTest, Opener
from tests.store.test_others import spec

pytestmark = pytest.mark.anyio


async def test_the_first_model_is_the_default_unless_one_is_set(opened: Opener) -> None:
    api = await opened(models=("b", "a"))
    assert (await api.submit())["request"]["model"] == "a"
    assert (await api.submit(model="b"))["request"]["model"] == "b"
    api = await opened(models=("b", "a"), default_model="b")
    assert (await api.submit())["request"]["model"] == "b"


async def test_models_unknown_and_not_yet_announced(opened: Opener) -> None:
    api = await opened(models=())
    response = await api.http.post("/v1/jobs", json={"prompt": "a"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "model_unavailable")
    assert "retry-after" in response.headers
    api = await opened()
    response = await api.http.post("/v1/jobs", json={"prompt": "a", "model": "nope"})
    assert (response.status_code, response.json()["error"]["param"]) == (404, "model")


async def test_a_model_that_nobody_serves_takes_no_jobs_that_would_wait_for_ever(api: ApiUnderTest) -> None:
    api.clock.advance(3600)
    response = await api.http.post("/v1/jobs", json={"prompt": "a red apple"})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "model_unavailable"
    assert int(response.headers["retry-after"]) >= 1


async def test_a_model_whose_worker_left_a_moment_ago_takes_jobs_and_says_so(opened: Opener) -> None:
    api = await opened(worker_ttl_s=10, worker_grace_s=60)
    api.clock.advance(59)
    job = await api.submit()
    assert job["eta_seconds"] is None
    assert "No worker serves this model now" in job["warnings"][0]
    assert len(api.publisher.published) == 1
    api.clock.advance(2)
    response = await api.http.post("/v1/jobs", json={"prompt": "a green apple"})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "model_unavailable"


async def test_without_grace_a_model_is_refused_with_its_last_worker(opened: Opener) -> None:
    api = await opened(worker_ttl_s=10, worker_grace_s=0)
    await api.submit()
    api.clock.advance(11)
    response = await api.http.post("/v1/jobs", json={"prompt": "a green apple"})
    assert response.json()["error"]["code"] == "model_unavailable"


async def test_by_default_a_model_is_asked_that_somebody_serves(opened: Opener) -> None:
    api = await opened(models=("a", "b"))
    api.clock.advance(3600)
    await api.stores.models.announce(
        spec("b"), WorkerInfo(id="w-b", model="b", started_at=api.clock.now(), steps_per_s=1.0)
    )
    api.clock.advance(2)
    assert (await api.submit())["request"]["model"] == "b"


async def test_a_model_that_scales_from_zero_takes_jobs_and_says_so(opened: Opener) -> None:
    api = await opened(scale_from_zero=True)
    api.clock.advance(3600)
    job = await api.submit()
    assert job["eta_seconds"] is None
    assert "No worker serves this model now" in job["warnings"][0]
    (model,) = (await api.http.get("/v1/models")).json()["data"]
    assert model["live_workers"] == 0

"""Step counts in the API: a job is charged the steps that the model's solver takes. A count that the solver cannot take is refused."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.models import ModelSpec, StepCounts, WorkerInfo
from tests.api.conftest import ApiUnderTest, Opener
from tests.api.files import encoded
from tests.api.test_init_image import red
from tests.store.test_others import spec

pytestmark = pytest.mark.anyio

HEUN = {"max_steps": 4, "step_counts": StepCounts(taken=(1, 3, 5, 7), order=2), "init_images": True}
"""Twice as many steps as are named, less one."""
HOLES = {"default_steps": 4, "max_steps": 6, "step_counts": StepCounts(taken=(0, 0, 0, 13, 0, 15))}
"""Neither few nor five."""


async def api_of(opened: Opener, changes: dict[str, Any], **settings: Any) -> ApiUnderTest:
    api = await opened((), **settings)
    model = ModelSpec.model_validate({**spec("m").model_dump(), **changes})
    await api.stores.models.announce(model, WorkerInfo(id="w", model="m", started_at=1.0, steps_per_s=10.0))
    return api


async def test_a_job_says_how_many_steps_its_solver_takes(opened: Opener) -> None:
    api = await api_of(opened, HEUN)
    job = await api.submit(num_inference_steps=4)
    assert (job["request"]["num_inference_steps"], job["denoising_steps"]) == (4, 7)
    assert job["eta_seconds"] == pytest.approx(0.7), "seven steps at ten a second"
    (message,) = api.publisher.published
    assert (message.request.steps, message.request.denoising_steps) == (7, 7)
    start = {"init_image": encoded(red()), "num_inference_steps": 4}
    for strength, steps in ((0.25, 1), (0.5, 3), (1, 7)):
        job = await api.submit(**start, strength=strength)
        assert job["denoising_steps"] == steps
    await api.work(api.publisher.published[0])
    again = (await api.http.post("/v1/jobs", json={"prompt": "a red apple", "num_inference_steps": 4})).json()
    assert (again["cache"], again["denoising_steps"]) == ("hit", 7), "also where the answer was known"


async def test_a_solver_that_does_as_it_is_told_is_not_mentioned_in_messages(opened: Opener) -> None:
    api = await api_of(opened, {"init_images": True})
    assert (await api.submit(num_inference_steps=3))["denoising_steps"] == 3
    job = await api.submit(init_image=encoded(red()), num_inference_steps=4, strength=0.5)
    assert job["denoising_steps"] == 2, "strength times the steps that were named"
    assert all("denoising_steps" not in m.model_dump_json() for m in api.publisher.published)


@pytest.mark.parametrize("steps", [1, 3, 5])
async def test_what_the_solver_cannot_take_is_refused_by_name(opened: Opener, steps: int) -> None:
    api = await api_of(opened, HOLES)
    response = await api.http.post("/v1/jobs", json={"prompt": "a", "num_inference_steps": steps})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (422, "num_inference_steps")
    assert "between 4 and 6, and none of 1, 2, 3, 5" in error["message"]
    assert f"cannot take {steps}" in error["message"]
    model = (await api.http.get("/v1/models/m")).json()
    assert (model["max_num_inference_steps"], model["refused_num_inference_steps"]) == (6, [1, 2, 3, 5])
    assert (await api.submit())["denoising_steps"] == 13, "the default is one that it can"
    assert (await api.submit(num_inference_steps=6))["denoising_steps"] == 15


async def test_cost_counts_the_steps_that_are_taken(opened: Opener) -> None:
    api = await api_of(opened, HEUN, max_cost=64 * 64 * 5 / 1e6)
    await api.submit(num_inference_steps=3)
    response = await api.http.post("/v1/jobs", json={"prompt": "a", "num_inference_steps": 4})
    assert response.status_code == 422
    assert "4 num_inference_steps are 7" in response.json()["error"]["message"]
    job = await api.submit(init_image=encoded(red()), num_inference_steps=4, strength=0.5)
    assert job["denoising_steps"] == 3, "those that strength leaves out cost nothing"


async def test_steps_by_default_are_as_many_as_strength_needs(opened: Opener) -> None:
    api = await api_of(opened, HEUN)
    job = await api.submit(init_image=encoded(red()), strength=0.3)
    assert (job["request"]["num_inference_steps"], job["denoising_steps"]) == (4, 1)

"""LoRA adapters in the API: a request names one that the model's workers have announced."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.jobs import JobMessage
from contracts.models import LoraSpec, ModelSpec, WorkerInfo
from contracts.requests import GenerationRequest, Lora
from tests.api.conftest import ApiUnderTest, Opener
from tests.store.test_others import spec

pytestmark = pytest.mark.anyio


@pytest.fixture
async def api(opened: Opener) -> ApiUnderTest:
    api = await opened(())
    loras = (LoraSpec(name="pixel", revision="1"), LoraSpec(name="ink", revision="2"))
    await announce(api, spec("m").model_copy(update={"loras": loras}))
    return api


async def announce(api: ApiUnderTest, model: ModelSpec) -> None:
    worker = WorkerInfo(id=f"w-{model.name}", model=model.name, started_at=1.0, steps_per_s=10.0)
    await api.stores.models.announce(model, worker)


async def test_a_job_carries_its_adapter(api: ApiUnderTest) -> None:
    job = await api.submit(lora={"name": "pixel"})
    assert job["request"]["lora"] == {"name": "pixel", "scale": 1.0}
    assert api.publisher.published[-1].request.lora == Lora(name="pixel", scale=1.0)
    (model,) = (await api.http.get("/v1/models")).json()["data"]
    assert model["loras"] == ["pixel", "ink"]


async def test_each_adapter_and_scale_is_a_picture_of_its_own(api: ApiUnderTest) -> None:
    for lora in (None, {"name": "pixel"}, {"name": "ink"}, {"name": "ink", "scale": 0.5}):
        assert (await api.submit(lora=lora))["cache"] == "miss"
    assert (await api.submit(lora={"name": "ink", "scale": 0.5}))["cache"] == "joined"
    assert (await api.submit(lora={"name": "pixel", "scale": 1}))["cache"] == "joined", "1 is the default"
    nothing = await api.submit(lora={"name": "pixel", "scale": 0})
    assert (nothing["cache"], nothing["request"]["lora"]) == ("joined", None), (
        "what does nothing is not there"
    )


async def test_other_weights_under_the_same_name_are_other_pictures(api: ApiUnderTest) -> None:
    await api.submit(lora={"name": "pixel"})
    await announce(api, spec("m").model_copy(update={"loras": (LoraSpec(name="pixel", revision="9"),)}))
    api.clock.advance(2)
    assert (await api.submit(lora={"name": "pixel"}))["cache"] == "miss"


@pytest.mark.parametrize(
    ("lora", "param", "says"),
    [
        ({"name": "oil"}, "lora.name", "one of the adapters of m: pixel, ink"),
        ({"name": "ink", "scale": 2.5}, "lora.scale", "between 0 and 2"),
        ({"name": "ink", "scale": -1}, "lora.scale", "between 0 and 2"),
        ({"name": "ink", "scale": "much"}, "lora.scale", "a finite number"),
        ({"name": 7}, "lora.name", "a string"),
        ({"scale": 1}, "lora.name", "required"),
        ({"name": "ink", "path": "x"}, "lora.path", "known are lora.name, lora.scale"),
        ("ink", "lora", "an object with a name"),
        ([{"name": "ink"}], "lora", "an object with a name"),
    ],
)
async def test_a_wrong_adapter_is_named(api: ApiUnderTest, lora: Any, param: str, says: str) -> None:
    response = await api.http.post("/v1/jobs", json={"prompt": "a red apple", "lora": lora})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (422, param)
    assert says in error["message"]
    assert api.publisher.published == []


async def test_a_model_without_adapters_says_so(opened: Opener) -> None:
    api = await opened()
    response = await api.http.post("/v1/jobs", json={"prompt": "a red apple", "lora": {"name": "ink"}})
    assert (response.status_code, response.json()["error"]["param"]) == (422, "lora")
    schema = (await api.http.get("/openapi.json")).json()["components"]["schemas"]["JobRequest"]
    assert schema["properties"]["lora"]["type"] == "null"


async def test_the_reference_lists_the_adapters(api: ApiUnderTest) -> None:
    schemas = (await api.http.get("/openapi.json")).json()["components"]["schemas"]
    assert schemas["LoraRequest"]["properties"]["name"]["enum"] == ["ink", "pixel"]


def test_records_of_a_version_without_the_field_are_read_and_theirs_are_written() -> None:
    """What does not use the field reads and writes as before it was there, so that old and new processes work together."""
    old = {
        "model": "m", "prompt": "a", "width": 64, "height": 64,
        "num_inference_steps": 1, "guidance_scale": 0.0, "seed": 7,
    }  # fmt: skip
    request = GenerationRequest.model_validate(old)
    assert request.lora is None
    message = JobMessage(job_id="j", tenant="t", key="k", request=request, created_at=0, deadline=1)
    assert "lora" not in message.model_dump_json()
    told = message.model_copy(update={"request": request.model_copy(update={"lora": Lora(name="a")})})
    assert JobMessage.model_validate_json(told.model_dump_json()) == told

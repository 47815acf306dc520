"""OpenAI's parameters as its own client declares them, and what an operator may set: aliases of models, the form of the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import pytest
from openai.types import image_edit_params, image_generate_params

from api.openai import EXPECTED, ImagesRequest
from contracts.errors import SettingsError
from contracts.settings import ApiSettings
from tests.api.conftest import ADMIN, PICTURE, ApiUnderTest, Opener
from tests.api.test_limits import key
from tests.api.test_openai import PATH, answered, asked

pytestmark = pytest.mark.anyio

REFUSED: Final = ("frame_count", "frame_duration_ms", "svg", "image", "mask", "markup", "input_fidelity")


def declared() -> dict[str, Any]:
    """Name and type of every parameter of images.generate in the client that is installed."""
    return get_type_hints(image_generate_params.ImageGenerateParamsStreaming)


def literals(kind: Any) -> Iterator[Any]:
    """The constants that a type names."""
    if get_origin(kind) is Literal:
        yield from get_args(kind)
    else:
        for part in get_args(kind):
            yield from literals(part)


CONSTANTS: Final = [
    (name, value) for name, kind in declared().items() for value in literals(kind) if name != "model"
]


def test_every_parameter_of_the_installed_client_is_known() -> None:
    edits = get_type_hints(image_edit_params.ImageEditParamsStreaming)
    assert declared().keys() | edits.keys() <= ImagesRequest.model_fields.keys()
    assert ImagesRequest.model_fields.keys() == EXPECTED.keys()


@pytest.mark.parametrize(("name", "value"), CONSTANTS)
async def test_every_constant_of_it_is_taken_or_refused_by_name(
    api: ApiUnderTest, name: str, value: Any
) -> None:
    body = {"prompt": "a red apple", name: value}
    asking = asyncio.create_task(api.http.post(PATH, json=body))
    async with asyncio.timeout(5):
        while not asking.done() and not api.publisher.published:
            await asyncio.sleep(0.01)
        if api.publisher.published:
            await api.work()
        response = await asking
    if response.status_code == 400:
        assert (name, value) in [
            ("background", "transparent"),
            ("output_format", "gif"),
            ("output_format", "svg"),
            *(("size", size) for _, size in CONSTANTS if size != "auto"),
        ]
        assert response.json()["error"]["param"] == name
        assert response.json()["error"]["message"].startswith(name)
    else:
        assert response.status_code == 200


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_done_is_refused_by_name(api: ApiUnderTest, name: str) -> None:
    for value in (2, "x", {"model": "x"}):
        response = await api.http.post(PATH, json={"prompt": "a", name: value})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, name)
        assert error["message"].startswith(f"{name} must be left out: ")
    nothing: dict[str, Any] = {name: None}
    asking = await asked(api, **nothing)
    await api.work()
    assert (await answered(asking)).status_code == 200, "null is as good as nothing"


async def test_a_typo_is_told_apart(api: ApiUnderTest) -> None:
    error = (await api.http.post(PATH, json={"prompt": "a", "frame_cuont": 2, "sizes": "64x64"})).json()[
        "error"
    ]
    messages = {fault["param"]: fault["message"] for fault in error["details"]["faults"]}
    assert messages["frame_cuont"].startswith("frame_cuont is not a known field; known are prompt, model, n,")
    assert messages["sizes"].endswith("Did you mean size?")
    assert "svg" not in messages["sizes"], "what is refused is not offered"


async def test_the_operator_says_how_pictures_come_by_default(opened: Opener) -> None:
    api = await opened(default_response_format="url")
    asking = await asked(api)
    await api.work()
    (image,) = (await answered(asking)).json()["data"]
    assert "b64_json" not in image
    assert (await api.http.get(image["url"])).content == PICTURE
    body = {"prompt": "a red apple", "response_format": "b64_json"}
    (image,) = (await api.http.post(PATH, json=body)).json()["data"]
    assert "url" not in image


async def test_an_alias_is_the_model_on_every_route(opened: Opener) -> None:
    api = await opened(models=("m", "other"), model_aliases="dall-e-3=m, gpt-image-1=m,x=other")
    listed = {each["id"]: each["aliases"] for each in (await api.http.get("/v1/models")).json()["data"]}
    assert listed == {"m": ["dall-e-3", "gpt-image-1"], "other": ["x"]}
    assert (await api.http.get("/v1/models/dall-e-3")).json()["id"] == "m"
    real = await api.submit(model="m")
    assert real["request"]["model"] == "m"
    again = await api.submit(model="dall-e-3")
    assert (again["request"]["model"], again["cache"]) == ("m", "joined"), "one key for both"
    batch = await api.http.post(
        "/v1/jobs:batch", json={"requests": [{"prompt": "a red apple", "model": "gpt-image-1"}]}
    )
    assert batch.json()["data"][0]["job"]["cache"] == "joined"
    asking = asyncio.create_task(
        api.http.post(PATH, json={"prompt": "a red apple", "model": "dall-e-3", "response_format": "url"})
    )
    async with asyncio.timeout(5):
        while len((await api.http.get("/v1/jobs")).json()["data"]) < 4:
            await asyncio.sleep(0.01)
    await api.work()
    assert (await answered(asking)).status_code == 200
    assert len(api.publisher.published) == 1
    purged = await api.http.delete("/v1/cache?model=dall-e-3", headers=ADMIN)
    assert purged.json() == {"purged": 1}
    document = (await api.http.get("/openapi.json")).json()
    assert "gpt-image-1" in str(document["components"]["schemas"]["ImagesRequest"]["properties"]["model"])
    missing = (await api.http.post("/v1/jobs", json={"prompt": "a", "model": "none"})).json()["error"]
    assert missing["details"]["models"] == ["m", "other", "dall-e-3", "gpt-image-1", "x"]


async def test_an_alias_of_a_model_that_is_not_there_is_a_fault_of_ours(opened: Opener) -> None:
    api = await opened(model_aliases="dall-e-3=later")
    response = await api.http.post("/v1/jobs", json={"prompt": "a", "model": "dall-e-3"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "model_unavailable")
    assert "dall-e-3 stands for later" in response.json()["error"]["message"]


async def test_the_default_model_may_be_named_by_an_alias(opened: Opener) -> None:
    api = await opened(models=("a", "m"), model_aliases="dall-e-3=m", default_model="dall-e-3")
    assert (await api.submit())["request"]["model"] == "m"


@pytest.mark.parametrize("text", ["dall-e-3", "a=b=c", "a=", "=b", "a=b,a=c", "a=b,b=c", "a b=c"])
def test_bad_aliases_stop_the_process(text: str) -> None:
    with pytest.raises(SettingsError, match="DARKROOM_MODEL_ALIASES"):
        ApiSettings.from_env({"DARKROOM_MODEL_ALIASES": text})


@pytest.mark.parametrize(
    ("limits", "again_s", "hopeless"),
    [
        ({"requests_per_minute": 1, "burst": 1}, 60, False),
        ({"requests_per_minute": 0.1, "burst": 1}, 120, False),
        ({"images_per_day": 1}, 120, True),
    ],
)
async def test_no_wait_is_longer_than_the_client_takes(
    api: ApiUnderTest, limits: dict[str, Any], again_s: int, hopeless: bool
) -> None:
    mine = await key(api, **limits)
    assert (await api.http.post("/v1/jobs", json={"prompt": "a"}, headers=mine)).status_code == 202
    api.clock.advance(86_400 - api.clock.now() % 86_400 - 7200 if hopeless else 0)
    await api.http.post("/v1/jobs", json={"prompt": "a"}, headers=mine)
    response = await api.http.post(PATH, json={"prompt": "another"}, headers=mine)
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) == again_s
    assert (response.headers.get("x-should-retry") == "false") == hopeless
    true_s = response.json()["error"]["details"].get("retry_after_s")
    assert (true_s is not None) == (again_s == 120)
    assert true_s is None or true_s > 120
    elsewhere = await api.http.post("/v1/jobs", json={"prompt": "another"}, headers=mine)
    assert int(elsewhere.headers["retry-after"]) == pytest.approx(true_s or 60, abs=1)

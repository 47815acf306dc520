"""OpenAI's own client, unchanged, against a running deployment."""

from __future__ import annotations

import asyncio
import base64
import io
import signal
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent
from PIL import Image

from tests.integration.conftest import Deploy, Stack

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_server: Any, rabbit_server: Any) -> Iterator[Stack]:
    with Stack.open({}, tmp_path_factory.mktemp("openai"), redis_server, rabbit_server) as running:
        yield running


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="unused", timeout=60.0) as made:
        yield made


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def of_b64(text: str | None) -> Image.Image:
    assert text is not None
    return opened(base64.b64decode(text, validate=True))


def test_bytes_by_default_as_openai_has_it(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="a red apple on a blue background", model="emoji-turbo")
    assert answer.data is not None
    (image,) = answer.data
    assert of_b64(image.b64_json).format == "PNG"
    assert image.url is None
    assert (answer.size, answer.output_format, answer.background) == ("64x64", "png", "opaque")
    assert answer.created > 1_700_000_000


def test_addresses_are_absolute_and_lead_to_pictures(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        prompt="a rocket",
        n=3,
        size="96x64",
        response_format="url",
        user="somebody",
        quality="high",
        complexity="low",
        style="vivid",
    )
    assert answer.data is not None
    assert len(answer.data) == 3
    assert len({image.url for image in answer.data}) == 3
    for image in answer.data:
        assert image.b64_json is None
        assert image.url is not None
        assert opened(httpx.get(image.url).content).size == (96, 64)


@pytest.mark.parametrize(("format_", "kind"), [("jpeg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_formats_and_compression(client: openai.OpenAI, format_: Any, kind: str) -> None:
    sizes = []
    for compression in (5, 100):
        answer = client.images.generate(
            prompt="a snowman", output_format=format_, output_compression=compression
        )
        assert answer.data is not None
        data = base64.b64decode(answer.data[0].b64_json or "")
        assert opened(data).format == kind
        sizes.append(len(data))
    assert (sizes[0] < sizes[1]) == (format_ != "png")


def test_what_is_ours_goes_through_extra_body(client: openai.OpenAI) -> None:
    extras = {"seed": 7, "num_inference_steps": 2, "negative_prompt": "blurred", "guidance_scale": 1.0}
    pictures = []
    for changes in ({}, {}, {"seed": 8}, {"num_inference_steps": 1}):
        answer = client.images.generate(prompt="a pizza", extra_body={**extras, **changes})
        assert answer.data is not None
        pictures.append(answer.data[0].b64_json)
    assert pictures[0] == pictures[1]
    assert len(set(pictures)) == 3


def test_a_streamed_answer_ends_with_its_pictures(client: openai.OpenAI) -> None:
    stream = client.images.generate(
        prompt="a guitar", n=2, stream=True, partial_images=2, extra_body={"num_inference_steps": 4}
    )
    events = list(stream)
    partial, events = events[:-2], events[-2:]
    # One that the picture overtakes is left out.
    assert {event.type for event in partial} <= {"image_generation.partial_image"}
    for event in partial:
        assert isinstance(event, ImageGenPartialImageEvent)
        assert event.partial_image_index in (0, 1)
        assert of_b64(event.b64_json).size == (64, 64)
    assert partial, "four passes take longer than to store a picture"
    assert [event.type for event in events] == ["image_generation.completed"] * 2
    for event in events:
        assert isinstance(event, ImageGenCompletedEvent)
        assert of_b64(event.b64_json).size == (64, 64)
        assert (event.size, event.output_format, event.background) == ("64x64", "png", "opaque")
        assert event.usage.total_tokens == 0
    assert events[0] != events[1]


def test_the_asynchronous_client_too(stack: Stack) -> None:
    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="unused") as client:
            answers = await asyncio.gather(
                *(client.images.generate(prompt="a key", extra_body={"seed": seed}) for seed in range(4))
            )
            stream = await client.images.generate(prompt="a key", stream=True)
            assert [event.type async for event in stream] == ["image_generation.completed"]
        return [answer.data[0].b64_json for answer in answers if answer.data]

    assert len(set(asyncio.run(ask()))) == 4


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * 2001}, "prompt"),
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"size": "1024x1024"}, "size"),
        ({"size": "huge"}, "size"),
        ({"size": "64x65"}, "size"),
        ({"background": "transparent"}, "background"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_compression": 101, "output_format": "webp"}, "output_compression"),
        ({"partial_images": 4, "stream": True}, "partial_images"),
        ({"frame_count": 4}, "frame_count"),
        ({"frame_duration_ms": 100}, "frame_duration_ms"),
        ({"svg": {"model": "gpt-5"}}, "svg"),
        ({"extra_body": {"steps": 3}}, "steps"),
        ({"extra_body": {"seed": -1}}, "seed"),
    ],
)
def test_bad_requests_are_the_clients_own_error(client: openai.OpenAI, changes: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(**{"prompt": "a red apple", **changes})
    assert caught.value.param == param
    assert param in caught.value.message
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(prompt="a red apple", model="gpt-image-2")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["emoji-turbo"]
    assert client.models.retrieve("emoji-turbo").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("none")


def test_edits_are_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="/v1/images/edits is not offered here"):
        client.images.edit(image=b"\x89PNG", prompt="a hat")


ADMIN_KEY = "dk_" + "O" * 43


def test_an_operator_serves_programs_that_name_openais_models_and_waits_that_their_client_takes(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = deploy(
        rabbitmq=False,
        DARKROOM_ADMIN_KEY=ADMIN_KEY,
        DARKROOM_ALLOW_ANONYMOUS="false",
        DARKROOM_MODEL_ALIASES="dall-e-3=fake",
        DARKROOM_DEFAULT_RESPONSE_FORMAT="url",
    )
    waits: list[float] = []
    # The waits are noted rather than waited for: four minutes.
    monkeypatch.setattr("openai._base_client.time.sleep", waits.append)
    key = stack.http.post("/v1/keys", json={"tenant": "t", "requests_per_minute": 0.1, "burst": 1}).json()[
        "key"
    ]
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=key, timeout=60.0) as client:
        answer = client.images.generate(prompt="a key", model="dall-e-3")
        assert answer.data is not None
        assert answer.data[0].url is not None
        assert httpx.get(answer.data[0].url).status_code == 200
        waits.clear()
        with pytest.raises(openai.RateLimitError) as caught:
            client.images.generate(prompt="another", model="dall-e-3")
    assert waits == [120.0, 120.0], "it asked again twice"
    details: Any = caught.value.body
    assert 580 < details["details"]["retry_after_s"] <= 600


def test_a_job_canceled_meanwhile_is_a_conflict_and_not_asked_for_again(
    stack: Stack, client: openai.OpenAI
) -> None:
    before = {job["id"] for job in stack.http.get("/v1/jobs").json()["data"]}
    caught: list[Exception] = []
    stack.kill("worker-1", signal.SIGSTOP)
    try:

        def ask() -> None:
            try:
                client.images.generate(prompt="an octopus", extra_body={"seed": 4242})
            except openai.APIStatusError as error:
                caught.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        job = None
        while job is None:
            listed = stack.http.get("/v1/jobs").json()["data"]
            job = next((each for each in listed if each["id"] not in before), None)
        stack.http.post(job["urls"]["cancel"])
        asking.join(30)
    finally:
        stack.kill("worker-1", signal.SIGCONT)
    (error,) = caught
    assert isinstance(error, openai.ConflictError)
    after = stack.http.get("/v1/jobs").json()["data"]
    assert len({each["id"] for each in after} - before) == 1, "asked once"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_its_waiting_job_along(stack: Stack, stream: bool) -> None:
    seed = 31337 + stream
    stack.kill("worker-1", signal.SIGSTOP)
    try:
        body = {"prompt": "a mushroom", "seed": seed, "stream": stream}
        url = f"{stack.url}/v1/images/generations"
        if stream:
            with httpx.stream("POST", url, json=body) as response:
                assert next(response.iter_bytes())
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(url, json=body, timeout=1.0)
        job = stack.http.get("/v1/jobs", params={"limit": 1}).json()["data"][0]
        assert job["request"]["seed"] == seed
        job = stack.ended(job)
    finally:
        stack.kill("worker-1", signal.SIGCONT)
    assert job["status"] == "canceled"

"""`POST /v1/images/generations` with OpenAI's client."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.integration.wire_contract.site import BASE, SEEDS, Site, opened_image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def client(site: Site) -> Iterator[openai.OpenAI]:
    token = site.alice.http.headers["authorization"].removeprefix("Bearer ")
    with openai.OpenAI(base_url=f"{site.admin.url}/v1", api_key=token, timeout=60.0) as made:
        yield made


def test_the_openai_client_takes_every_field_unchanged(site: Site, client: openai.OpenAI) -> None:
    seed = next(SEEDS)
    asked: dict[str, Any] = {
        "prompt": "a snowman",
        "model": BASE,
        "n": 2,
        "size": "64x64",
        "output_format": "webp",
        "output_compression": 60,
        "user": "somebody",
        "extra_body": {
            "negative_prompt": "blurred",
            "num_inference_steps": 2,
            "guidance_scale": 2.0,
            "seed": seed,
        },
    }
    inline = client.images.generate(response_format="b64_json", **asked)
    linked = client.images.generate(response_format="url", **asked)
    assert inline.data
    assert linked.data
    assert len(inline.data) == len(linked.data) == 2
    assert inline.created > 1_700_000_000
    for one, other in zip(inline.data, linked.data, strict=True):
        data = base64.b64decode(one.b64_json or "", validate=True)
        assert opened_image(data).format == "WEBP"
        assert httpx.get(other.url or "").content == data
    request = site.alice.http.get("/v1/jobs", params={"limit": 1}).json()["data"][0]["request"]
    told = {
        "prompt": "a snowman",
        "negative_prompt": "blurred",
        "num_inference_steps": 2,
        "guidance_scale": 2.0,
        "seed": seed,
        "num_images": 2,
        "output_quality": 60,
    }
    assert {name: request[name] for name in told} == told

"""The format of the pictures: `output_format`, `Accept`, and what each encoder reads."""

from __future__ import annotations

import pytest

from tests.api.conftest import ApiUnderTest, Opener

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/json", "png"),
        ("*/*", "png"),
        ("image/*", "png"),
        ("image/webp", "webp"),
        ("application/json, Image/JPEG", "jpeg"),
        ("image/png;q=0.5, image/webp;q=0.8", "webp"),
        ("image/webp;q=0", "png"),
        ("image/webp;q=x", "webp"),
    ],
)
async def test_the_format_is_what_accept_likes_best(api: ApiUnderTest, accept: str, expected: str) -> None:
    response = await api.http.post("/v1/jobs", json={"prompt": "a"}, headers={"Accept": accept})
    assert response.json()["request"]["output_format"] == expected


async def test_a_field_outdoes_accept_and_the_platforms_own_format_comes_last(opened: Opener) -> None:
    api = await opened(default_output_format="webp")
    assert (await api.submit())["request"]["output_format"] == "webp"
    response = await api.http.post(
        "/v1/jobs", json={"prompt": "a", "output_format": "jpeg"}, headers={"Accept": "image/png"}
    )
    assert response.json()["request"]["output_format"] == "jpeg"


async def test_what_an_encoder_does_not_read_makes_no_other_request(api: ApiUnderTest) -> None:
    first = await api.submit(output_quality=50)
    assert first["request"]["output_quality"] == 90
    assert (await api.submit(lossless=True))["cache"] == "joined", "a PNG always is"
    assert (await api.submit(output_format="webp", lossless=True, output_quality=3))["cache"] == "miss"
    assert (await api.submit(output_format="webp", lossless=True, output_quality=4))["cache"] == "joined"
    assert (await api.submit(output_format="webp"))["cache"] == "miss"

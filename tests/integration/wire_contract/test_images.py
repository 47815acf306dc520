"""`GET /v1/images/{name}`."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import pytest

from tests.integration.wire_contract.site import Site, fresh, is_error, opened_image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def picture(site: Site) -> dict[str, Any]:
    image: dict[str, Any] = site.alice.ended(site.alice.submit(**fresh()))["images"][0]
    return image


def test_an_image_is_its_bytes_immutable_and_named_by_them(site: Site, picture: dict[str, Any]) -> None:
    response = httpx.get(
        site.admin.url + picture["url"]
    )  # no key: docs/adr/0010-pictures-are-capabilities.md
    assert response.status_code == 200
    assert response.headers["content-type"] == picture["content_type"] == "image/png"
    assert opened_image(response.content).size == (picture["width"], picture["height"])
    assert "immutable" in response.headers["cache-control"]
    digest = hashlib.sha256(response.content).hexdigest()
    assert response.headers["etag"] == f'"{digest}"'
    assert picture["url"] == f"/v1/images/{digest}.png"


@pytest.mark.parametrize(("format_", "kind"), [("jpeg", "JPEG"), ("webp", "WEBP")])
@pytest.mark.parametrize("by", ["field", "accept"])
def test_an_image_has_the_type_that_was_asked_for(site: Site, format_: str, kind: str, by: str) -> None:
    extra = {"output_format": format_} if by == "field" else {}
    headers = {"Prefer": "wait=30", **({"Accept": f"image/{format_}"} if by == "accept" else {})}
    (image,) = site.alice.http.post("/v1/jobs", json=fresh(**extra), headers=headers).json()["images"]
    response = httpx.get(site.admin.url + image["url"])
    assert response.headers["content-type"] == image["content_type"] == f"image/{format_}"
    assert opened_image(response.content).format == kind


def test_an_unknown_image_is_404(site: Site) -> None:
    is_error(site.alice.http.get(f"/v1/images/{'0' * 64}.png"), 404, "image_not_found")

"""Imports: what a client sends, what is kept of it, what it costs, and how it goes."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from backends.blobs import DirectoryBlobStore
from contracts.pictures import PictureRecord
from store.stores import Stores
from tests.api.conftest import ADMIN, ApiUnderTest, Opener
from tests.api.files import file_of, noise

pytestmark = pytest.mark.anyio

PATH = "/v1/search/images"


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def png(colour: str = "red", size: tuple[int, int] = (40, 30)) -> bytes:
    return file_of(Image.new("RGB", size, colour))


@pytest.fixture
async def api(opened: Opener) -> ApiUnderTest:
    return await opened(search_url="http://127.0.0.1:9", max_import_side=64)


async def sent(api: ApiUnderTest, data: bytes, headers: dict[str, str] | None = None, **more: Any) -> Any:
    return await api.http.post(PATH, json={"image": text(data), **more}, headers=headers or {})


async def records(stores: Stores) -> list[PictureRecord]:
    cursor, found = await stores.pictures.scan()
    assert cursor == "", "one shard"
    return list(found)


async def stored(api: ApiUnderTest, name: str) -> Image.Image:
    answer = await api.http.get(f"/v1/images/{name}")
    assert answer.status_code == 200
    picture = Image.open(io.BytesIO(answer.content))
    picture.load()
    return picture


async def test_an_image_is_imported_once(api: ApiUnderTest) -> None:
    first = await sent(api, png(), caption="a red card", origin="cards/red.png")
    assert (first.status_code, first.json()["added"]) == (201, True), first.text
    name = first.json()["name"]
    assert first.json()["url"].endswith(name)
    again = await sent(api, png(), caption="another caption")
    assert (again.status_code, again.json()) == (200, {**first.json(), "added": False})
    (record,) = await records(api.stores)
    assert (record.scope, record.name, record.source) == ("public", name, "imported")
    assert (record.prompt, record.origin) == ("a red card", "cards/red.png")
    assert (record.width, record.height, record.embedding) == (40, 30, None)
    assert await api.stores.pictures.owed() == 1
    assert (await stored(api, name)).size == (40, 30)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
async def test_what_is_stored_is_written_anew(api: ApiUnderTest, kind: str) -> None:
    """Upright, no larger than allowed, in its own format, without what else the file held."""
    picture = Image.new("RGB", (200, 100), "red")
    picture.paste("blue", (0, 0, 100, 100))
    turned = Image.Exif()
    turned[0x0112] = 6  # its left side is up
    turned[0x010E] = "secret place"
    sideways = file_of(picture, kind, exif=turned)
    assert b"secret place" in sideways
    answer = await sent(api, sideways)
    name = answer.json()["name"]
    kept = await stored(api, name)
    assert (kept.format, kept.size) == (kind, (32, 64))
    top, bottom = kept.convert("RGB").getpixel((16, 8)), kept.convert("RGB").getpixel((16, 56))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[2] > 200 > 60 > top[0], "blue is up"
    assert bottom[0] > 200 > 60 > bottom[2]
    assert b"secret" not in await api.stores.blobs.get(name)
    assert not kept.getexif()


UNUSABLE: dict[str, tuple[bytes, str]] = {
    "no image": (b"<html>It works!</html>", "format"),
    "empty": (b"", "format"),
    "cut short": (file_of(noise(200, 200))[:2000], "damaged"),
    "too many pixels": (file_of(Image.new("1", (2000, 1001))), "pixels"),
    "too large": (png().ljust(50_001, b"\0"), "bytes"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
async def test_an_unusable_image_is_refused_with_its_reason(opened: Opener, kind: str) -> None:
    api = await opened(search_url="http://127.0.0.1:9", max_import_bytes=50_000, max_import_pixels=2_000_000)
    data, reason = UNUSABLE[kind]
    answer = await sent(api, data)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (422, "invalid_request", "image")
    assert error["details"]["reason"] == reason
    assert await records(api.stores) == []
    metrics = (await api.http.get("/metrics")).text
    assert 'darkroom_search_imports_total{outcome="refused"}' in metrics
    beyond = await sent(api, bytes(200_000))
    assert (beyond.status_code, beyond.json()["error"]["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"caption": "x" * 2001}, "caption"),
        ({"caption": "a\0b"}, "caption"),
        ({"origin": "x" * 2049}, "origin"),
        ({"origin": "a\x1b[2Jb"}, "origin"),
        ({"caption": 5}, "caption"),
        ({"title": "x"}, "title"),
    ],
)
async def test_a_wrong_field_is_named(api: ApiUnderTest, body: dict[str, Any], param: str) -> None:
    answer = await sent(api, png(), **body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param), answer.text
    assert await records(api.stores) == []


async def test_files_are_known_by_their_hashes(api: ApiUnderTest) -> None:
    files = [png(colour) for colour in ("red", "green", "blue")]
    hashes = [hashlib.sha256(each).hexdigest() for each in files]
    names = [(await sent(api, each)).json()["name"] for each in files[:2]]
    asked = await api.http.post(f"{PATH}/known", json={"sha256": [*hashes, hashes[0]]})
    assert asked.json()["data"] == [
        {"sha256": digest, "name": name} for digest, name in zip(hashes, names, strict=False)
    ]
    for wrong in ([], ["0" * 63], ["G" * 64], ["0" * 64] * 101):
        answer = await api.http.post(f"{PATH}/known", json={"sha256": wrong})
        assert answer.status_code == 422, wrong
    # A file that is gone is not known, and is imported again.
    blobs = api.stores.blobs
    assert isinstance(blobs, DirectoryBlobStore)
    await blobs.delete(names[0], time.time() + 60)
    await api.stores.pictures.settle(await api.stores.pictures.take("0", 10, 60.0))
    asked = await api.http.post(f"{PATH}/known", json={"sha256": hashes})
    assert [each["name"] for each in asked.json()["data"]] == names[1:]
    again = await sent(api, files[0])
    assert (again.status_code, again.json()["name"]) == (201, names[0])
    assert await api.stores.pictures.owed() == 1, "the index is owed it again"


@pytest.fixture
async def two(api: ApiUnderTest) -> tuple[dict[str, str], dict[str, str]]:
    async def key(tenant: str, **limits: Any) -> dict[str, str]:
        made = await api.http.post("/v1/keys", json={"tenant": tenant, **limits}, headers=ADMIN)
        return {"Authorization": f"Bearer {made.json()['key']}"}

    return await key("one"), await key("two")


async def test_an_image_of_two_tenants_goes_with_the_last(
    api: ApiUnderTest, two: tuple[dict[str, str], dict[str, str]]
) -> None:
    one, other = two
    name = (await sent(api, png(), one)).json()["name"]
    path = f"{PATH}/{name}"
    stranger = await api.http.delete(path, headers=other)
    assert (stranger.status_code, stranger.json()["error"]["code"]) == (404, "image_not_found")
    second = await sent(api, png(), other)
    assert (second.status_code, second.json()["name"]) == (201, name), "nothing tells that another has it"
    assert (await api.http.delete(path, headers=one)).status_code == 204
    assert (await api.http.delete(path, headers=one)).status_code == 404
    assert (await api.http.get(f"/v1/images/{name}")).status_code == 200
    assert [each.scope for each in await records(api.stores)] == ["two"]
    assert (await api.http.delete(path, headers=other)).status_code == 204
    assert (await api.http.get(f"/v1/images/{name}")).status_code == 404
    back = await sent(api, png(), one)
    assert back.status_code == 201
    assert (await api.http.get(f"/v1/images/{name}")).status_code == 200


@pytest.mark.parametrize("name", ["nothing", "0" * 64 + ".png", "inputs%2F" + "0" * 64 + ".png"])
async def test_what_was_not_imported_cannot_be_removed(api: ApiUnderTest, name: str) -> None:
    assert (await api.http.delete(f"{PATH}/{name}")).status_code == 404


async def test_an_import_costs_its_key_an_image_and_a_repeat_only_a_request(opened: Opener) -> None:
    api = await opened(search_url="http://127.0.0.1:9")
    made = await api.http.post(
        "/v1/keys",
        json={"tenant": "one", "images_per_day": 2, "requests_per_minute": 6, "burst": 5},
        headers=ADMIN,
    )
    key = {"Authorization": f"Bearer {made.json()['key']}"}
    statuses = [
        (await sent(api, data, key)).status_code for data in (png(), png(), b"none", png("green"), png())
    ]
    assert statuses == [201, 200, 422, 201, 200], "what is no image costs nothing"
    spent = await sent(api, png("blue"), key)
    assert (spent.status_code, spent.json()["error"]["details"]["limit"]) == (429, "images_per_day")
    too_many = await sent(api, png(), key)
    limit = too_many.json()["error"]["details"]["limit"]
    assert (too_many.status_code, limit) == (429, "requests_per_minute")
    assert len(await records(api.stores)) == 2


async def test_a_store_that_takes_no_file_charges_nothing(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("in the way")
    api = await opened(search_url="http://127.0.0.1:9", blob_dir=blocked)
    made = await api.http.post("/v1/keys", json={"tenant": "one", "images_per_day": 1}, headers=ADMIN)
    key = {"Authorization": f"Bearer {made.json()['key']}"}
    assert (await sent(api, png(), key)).json()["error"]["code"] == "blob_store_unavailable"
    os.unlink(blocked)
    assert (await sent(api, png(), key)).status_code == 201


async def test_a_tenant_has_a_bound_for_its_records(opened: Opener) -> None:
    api = await opened(search_url="http://127.0.0.1:9", tenant_store_bytes=4000)
    assert (await sent(api, png())).status_code == 201
    assert (await sent(api, png("green"))).status_code == 201
    refused = await sent(api, png("blue"))
    assert (refused.status_code, refused.json()["error"]["details"]["limit"]) == (429, "kept_bytes")
    assert (await sent(api, png())).status_code == 200


async def test_without_a_search_nothing_is_imported(opened: Opener) -> None:
    api = await opened()
    for answer in (
        await sent(api, png()),
        await api.http.post(f"{PATH}/known", json={"sha256": ["0" * 64]}),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "search_off")


async def test_a_key_that_may_only_administrate_imports_nothing(api: ApiUnderTest) -> None:
    made = await api.http.post("/v1/keys", json={"tenant": "one", "scopes": ["admin"]}, headers=ADMIN)
    key: dict[str, str] = {"Authorization": f"Bearer {made.json()['key']}"}
    answer: httpx.Response = await sent(api, png(), key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "insufficient_scope")

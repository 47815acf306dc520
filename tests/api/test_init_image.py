"""Init images in the API: which files it accepts, which it refuses, and how the job carries one."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from api.init_image import longest_text, read
from api.job_request import JobRequest
from api.normalise import normalise
from api.pictures.header import header_of
from api.pictures.prepare import prepare
from backends.blobs import blob_name
from contracts.errors import InvalidRequest
from contracts.models import WorkerInfo
from contracts.settings import ApiSettings
from tests.api.conftest import ApiUnderTest, Opener
from tests.api.files import chunk, decoded, encoded, file_of, text_of
from tests.store.test_others import spec

pytestmark = pytest.mark.anyio
LIMITS: dict[str, Any] = {"max_bytes": 100_000, "max_pixels": 1_000_000}


def red(width: int = 80, height: int = 40) -> Image.Image:
    return Image.new("RGB", (width, height), (200, 10, 20))


def made(text: str, width: int, height: int) -> bytes:
    source = read(text, **LIMITS)
    made = prepare(source.data, source.header, (width, height))
    assert made.warnings == []
    return made.data


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
def test_what_is_a_picture_becomes_one_of_the_size_that_is_drawn(kind: str, head: str) -> None:
    picture = decoded(made(head + encoded(red(), kind), 64, 96))
    assert (picture.size, picture.mode) == ((64, 96), "RGB")
    pixel = picture.getpixel((5, 5))
    assert isinstance(pixel, tuple)
    assert all(abs(a - b) < 8 for a, b in zip(pixel, (200, 10, 20), strict=True))


def test_the_middle_is_kept_upright_and_on_white() -> None:
    wide = red(120, 40)
    wide.paste((0, 0, 255), (0, 0, 30, 40))
    assert decoded(made(encoded(wide), 32, 32)).getcolors() == [(32 * 32, (200, 10, 20))]
    tall = red(40, 80)
    tall.paste((0, 0, 255), (0, 0, 40, 40))
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    flipped = decoded(made(encoded(tall, "PNG", exif=turned), 40, 80))
    assert flipped.getpixel((20, 70)) == (0, 0, 255)
    clear = decoded(made(encoded(Image.new("RGBA", (32, 32), (0, 0, 0, 0))), 32, 32))
    assert clear.getpixel((3, 3)) == (255, 255, 255)


def bomb() -> str:
    """A PNG whose header announces 50,000 x 50,000 pixels."""

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    file = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
    return base64.b64encode(file).decode()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "PNG, JPEG or WebP"),
        ("no base64!", "base64"),
        ("data:text/html;base64,AAAA", "base64"),
        ("https://example.com/a.png", "base64"),
        (base64.b64encode(b"<svg/>").decode(), "PNG, JPEG or WebP"),
        (encoded(red(), "GIF"), "PNG, JPEG or WebP"),
        (encoded(red(1001, 1000)), "1000000 pixels, not 1001 x 1000"),
        (bomb(), "pixels"),
        ("A" * 140_000, "100000 bytes"),
        ("A" * 5, "base64"),
        ("AAAA=AAA", "base64"),
        ("ü" * 8, "base64"),
        ("data:image/png,AAAA", "base64"),
        (f"data:image/png;base64,data:image/png;base64,{encoded(red())}", "base64"),
        (text_of(file_of(red(), "JPEG")[:200]), "PNG, JPEG or WebP"),
    ],
)
def test_what_is_none_is_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as error:
        read(text, **LIMITS)
    assert error.value.param == "init_image"


def lines(text: str, width: int, end: str) -> str:
    return "".join(text[at : at + width] + end for at in range(0, len(text), width))


PLAIN = encoded(red(37, 29), "JPEG", quality=97)
"""Its alphabet has all that differs, and it is padded."""


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        lines(PLAIN, 76, "\r\n"),
        lines(PLAIN, 64, "\n"),
        f"  {PLAIN}\n\n",
        PLAIN.rstrip("="),
        PLAIN.replace("+", "-").replace("/", "_"),
        PLAIN.replace("+", "-").replace("/", "_").rstrip("="),
        *(
            f"{head},{PLAIN}"
            for head in (
                "data:image/jpg;base64",
                "DATA:IMAGE/JPEG;BASE64",
                "data:image/png;base64",
                "data:image/pjpeg;base64",
                "data:image/x-png;charset=utf-8;base64",
                'data:image/jpeg;name="a b.jpg";charset=utf-8;Base64',
                "data:image/jpeg; base64",
                "data:;base64",
                "data:application/octet-stream;base64",
                " data:image/jpeg;base64",
            )
        ),
        "data:image/jpeg;base64,\n" + lines(PLAIN, 76, "\n"),
        "data:image/jpeg;base64," + PLAIN.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
    ],
)
async def test_base64_is_taken_as_people_send_it(api: ApiUnderTest, text: str) -> None:
    assert {"+", "/", "="} <= set(PLAIN)
    job = await api.submit(init_image=text, num_inference_steps=4)
    assert job["request"]["init_image"] == blob_name(made(PLAIN, 64, 64), "png", is_input=True)


@pytest.fixture
async def api(opened: Opener) -> ApiUnderTest:
    api = await opened((), max_body_bytes=1000, max_init_image_bytes=20_000)
    worker = WorkerInfo(id="w", model="m", started_at=1.0, steps_per_s=10.0)
    await api.stores.models.announce(spec("m").model_copy(update={"init_images": True}), worker)
    return api


@pytest.mark.parametrize(
    "text", [encoded(red())[:60], encoded(Image.effect_noise((300, 300), 90).resize((120, 120)))[:4000]]
)
async def test_what_is_cut_off_is_refused_by_name(api: ApiUnderTest, text: str) -> None:
    response = await api.http.post("/v1/jobs", json={"prompt": "a", "init_image": text})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (422, "init_image")
    assert error["message"] == "init_image cannot be decoded: the file is damaged."


async def test_a_picture_to_start_from_has_no_public_address(api: ApiUnderTest) -> None:
    job = await api.submit(init_image=encoded(red()), num_inference_steps=4)
    name = api.publisher.published[-1].request.init_image
    assert name is not None
    assert await api.stores.blobs.exists(name)
    file = name.rpartition("/")[2]
    for path in (
        name,
        name.replace("/", "%2F"),
        name.replace("/", "%252F"),
        file,
        f"{file}?x=1",
        f"./{name}",
    ):
        for headers in ({}, {"Range": "bytes=0-9"}, {"If-None-Match": f'"{file.partition(".")[0]}"'}):
            for method in ("GET", "HEAD"):
                answer = await api.http.request(method, f"/v1/images/{path}", headers=headers)
                assert answer.status_code in (404, 405, 422), (method, path, headers)
                assert b"PNG" not in answer.content
    done = await api.work()
    assert done.result is not None
    drawn = await api.http.get(f"/v1/images/{done.result.images[0].name}")
    assert drawn.status_code == 200
    read = (await api.http.get(f"/v1/jobs/{job['id']}")).json()
    assert all("inputs" not in image["url"] for image in read["images"])


async def test_the_job_carries_a_name_and_the_store_the_picture(api: ApiUnderTest) -> None:
    job = await api.submit(init_image=encoded(red()), strength=0.5, num_inference_steps=4)
    request = api.publisher.published[-1].request
    assert request.init_image is not None
    assert job["request"]["init_image"] == request.init_image
    assert (job["request"]["strength"], request.steps) == (0.5, 2)
    assert decoded(await api.stores.blobs.get(request.init_image)).size == (64, 64)
    assert len(api.publisher.published[-1].model_dump_json()) < 1000


async def test_picture_and_strength_are_part_of_the_key(api: ApiUnderTest) -> None:
    body: dict[str, Any] = {"num_inference_steps": 4, "strength": 0.5}
    assert (await api.submit(num_inference_steps=4))["cache"] == "miss"
    first = await api.submit(init_image=encoded(red()), **body)
    again = await api.submit(init_image="data:image/png;base64," + encoded(red(), optimize=True), **body)
    assert (first["cache"], again["cache"]) == ("miss", "joined"), "the same pixels in another file"
    assert (await api.submit(init_image=encoded(red()), **{**body, "strength": 0.75}))["cache"] == "miss"
    assert (await api.submit(init_image=encoded(red().rotate(9)), **body))["cache"] == "miss"


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        (
            {"num_inference_steps": 1},
            "num_inference_steps",
            "num_inference_steps must be at least 2 with an init_image: one step must be left, and strength is 0.8 where it is left out.",
        ),
        (
            {"strength": 0.1},
            "strength",
            "strength must be at least 1/4: of the steps of m, 4 at most, one must be left; it is 0.1.",
        ),
        (
            {"strength": 0.1, "num_inference_steps": 3},
            "strength",
            "strength must be at least 1/4: of the steps of m, 4 at most, one must be left; it is 0.1.",
        ),
        (
            {"strength": 0.4, "num_inference_steps": 2},
            "strength",
            "strength times num_inference_steps must be at least 1, not 0.4 times 2.",
        ),
        (
            {"strength": 0.9999999, "num_inference_steps": 1},
            "strength",
            "strength times num_inference_steps must be at least 1, not 0.9999999 times 1.",
        ),
    ],
)
async def test_what_is_said_of_strength_speaks_of_what_was_sent(
    api: ApiUnderTest, body: dict[str, Any], param: str, says: str
) -> None:
    response = await api.http.post("/v1/jobs", json={"prompt": "a", "init_image": encoded(red()), **body})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["message"]) == (422, param, says)


async def test_one_step_is_left_at_least(api: ApiUnderTest) -> None:
    assert (await api.submit(init_image=encoded(red())))["request"]["num_inference_steps"] == 2
    for body, param in (
        ({"init_image": encoded(red()), "strength": 0.4, "num_inference_steps": 2}, "strength"),
        ({"init_image": encoded(red()), "strength": 0}, "strength"),
        ({"init_image": encoded(red()), "strength": 1.1}, "strength"),
        ({"init_image": encoded(red()), "strength": "high"}, "strength"),
        ({"strength": 0.5}, "strength"),
        ({"init_image": 7}, "init_image"),
        ({"init_image": "!"}, "init_image"),
    ):
        response = await api.http.post("/v1/jobs", json={"prompt": "a", **body})
        assert (response.status_code, response.json()["error"]["param"]) == (422, param), body


@given(st.floats(1 / 50, 1))
@example(0.19999999999999998)  # five times as much is less than 1
def test_who_names_no_steps_gets_as_many_as_the_strength_needs(strength: float) -> None:
    model = spec("m").model_copy(update={"init_images": True, "max_steps": 50})
    body = JobRequest(prompt="a", init_image="given", strength=strength)
    request = normalise(body, model, ApiSettings(), scope="s", random_seed=lambda: 0, init_image="0.png")
    assert request.steps_taken >= 1


async def test_a_model_of_one_step_says_why_it_takes_no_picture(opened: Opener) -> None:
    api = await opened(())
    worker = WorkerInfo(id="w", model="m", started_at=1.0, steps_per_s=10.0)
    one_step = {"init_images": False, "max_steps": 1, "default_steps": 1}
    await api.stores.models.announce(spec("m").model_copy(update=one_step), worker)

    async def refused(**body: Any) -> dict[str, Any]:
        response = await api.http.post("/v1/jobs", json={"prompt": "a", **body})
        assert response.status_code == 422
        error: dict[str, Any] = response.json()["error"]
        return error

    for more in ({}, {"num_inference_steps": 1, "strength": 0.5}):
        error = await refused(init_image=encoded(red()), **more)
        assert error["param"] == "init_image"
        assert "m takes one step, so it starts from noise alone" in error["message"]
        assert "init_images" in error["message"]
    error = await refused(num_inference_steps=2)
    assert error["message"] == "num_inference_steps must be 1."


async def test_only_a_picture_makes_a_body_long(api: ApiUnderTest) -> None:
    noise = encoded(Image.effect_noise((100, 100), 90))
    assert len(noise) > 10_000
    await api.submit(init_image=noise)
    for body in (
        {"prompt": "a" * 1500},
        {"prompt": "a" * 1500, "init_image": noise},
        {"prompt": "a", "init_image": "A" * 40_000},
    ):
        assert (await api.http.post("/v1/jobs", json=body)).status_code == 413


async def test_a_picture_of_the_full_length_may_have_line_breaks_and_escapes(opened: Opener) -> None:
    data = file_of(red()) + bytes(20_000)  # what follows the end of a PNG is not read
    api = await opened((), max_body_bytes=200, max_init_image_bytes=len(data))
    worker = WorkerInfo(id="w", model="m", started_at=1.0, steps_per_s=10.0)
    await api.stores.models.announce(spec("m").model_copy(update={"init_images": True}), worker)
    slashed = b"\xff" * (len(data) - len(file_of(red())))
    for text in (
        json.dumps("data:image/png;charset=utf-8;base64," + lines(text_of(data), 64, "\r\n")),
        json.dumps(text_of(file_of(red()) + slashed[: len(slashed) // 32])).replace(
            "/", "\\/"
        ),  # as PHP writes it
    ):
        body = f'{{"num_inference_steps": 4, "init_image" : {text}, "prompt": "init_image"}}'
        response = await api.http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 202, response.text
    too_long = {"prompt": "a", "init_image": text_of(data + b"0"), "num_inference_steps": 4}
    response = await api.http.post("/v1/jobs", json=too_long)
    assert response.json()["error"]["message"] == f"init_image must be at most {len(data)} bytes long."
    assert longest_text(len(data)) >= len(json.dumps(lines(text_of(data), 64, "\r\n")))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "how", [{}, {"lossless": True}, {"progressive": True}, {"exif": b"Exif\0\0" + bytes(999)}]
)
def test_the_header_is_read_as_pillow_reads_it(kind: str, how: dict[str, Any]) -> None:
    for mode in ("RGB", "L", "RGBA", "CMYK"):
        picture = Image.new(mode, (1234, 567))
        try:
            data = file_of(picture, kind, **how)
        except OSError:
            continue  # the format has no such mode
        header = header_of(data)
        assert header is not None
        assert (header.format, header.size) == (kind, (1234, 567))
        assert header.whole == (kind == "JPEG" and "progressive" in how)
        # Cut off before its size it is no picture, wherever that is.
        assert all(header_of(data[:length]) in (None, header) for length in range(min(len(data), 1200)))


async def test_a_model_that_starts_from_noise_alone_says_so(opened: Opener) -> None:
    api = await opened()
    response = await api.http.post("/v1/jobs", json={"prompt": "a", "init_image": encoded(red())})
    assert (response.status_code, response.json()["error"]["param"]) == (422, "init_image")

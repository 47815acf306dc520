"""Pictures to start from, by the pixels that a worker gets: every kind that people have, from the body to the store."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from contracts.models import WorkerInfo
from tests.api.conftest import ADMIN, ApiUnderTest, Opener
from tests.api.files import (
    FOLDER,
    chunk,
    cmyk_profile,
    decoded,
    file_of,
    grey_profile,
    noise,
    png,
    text_of,
)
from tests.store.test_others import spec

pytestmark = pytest.mark.anyio


@pytest.fixture
async def api(opened: Opener) -> ApiUnderTest:
    return await ready(await opened(()))


async def ready(api: ApiUnderTest) -> ApiUnderTest:
    model = spec("m").model_copy(
        update={
            "init_images": True,
            "min_size": 16,
            "max_size": 512,
            "max_pixels": 512 * 512,
            "size_multiple": 4,
        }
    )
    await api.stores.models.announce(model, WorkerInfo(id="w", model="m", started_at=1.0, steps_per_s=1000.0))
    return api


async def start(api: ApiUnderTest, data: bytes, width: int, height: int) -> tuple[Image.Image, list[str]]:
    """The picture that a worker would start from, and the warnings of its job."""
    job = await api.submit(init_image=text_of(data), width=width, height=height)
    picture = decoded(await api.stores.blobs.get(job["request"]["init_image"]))
    assert (picture.mode, picture.size) == ("RGB", (width, height))
    return picture, job["warnings"]


def error(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of a value, of 255."""
    means = ImageStat.Stat(ImageChops.difference(one, other)).mean
    return float(sum(means) / len(means))


async def test_grey_of_sixteen_bits_is_that_of_eight(api: ApiUnderTest) -> None:
    ramp = Image.linear_gradient("L")
    rows = [
        struct.pack(">256H", *(int(value) * 257 for value in ramp.crop((0, y, 256, y + 1)).tobytes()))
        for y in range(256)
    ]
    eight, _ = await start(api, file_of(ramp), 256, 256)
    sixteen, _ = await start(api, png(256, 256, 16, 0, rows), 256, 256)
    assert error(eight, sixteen) == 0
    between, _ = await start(
        api, png(256, 256, 16, 0, [struct.pack(">256H", *range(0, 65_536, 256))] * 256), 256, 256
    )
    values = between.getchannel("R").crop((0, 0, 256, 1)).tobytes()
    assert list(values) == [round(value / 257) for value in range(0, 65_536, 256)]


def halves(depth: int, colour: int, key: tuple[int, ...], other: tuple[int, ...]) -> bytes:
    """A PNG of 32 x 32, left of the key's colour, right of another; the key is transparent."""

    def row() -> bytes:
        if depth == 16:
            return struct.pack(f">{16 * len(key)}H", *key * 16) + struct.pack(
                f">{16 * len(key)}H", *other * 16
            )
        values = [*key * 16, *other * 16]
        each = 8 // depth
        packed = (values[at : at + each] for at in range(0, len(values), each))
        return bytes(
            sum(value << 8 - depth * (place + 1) for place, value in enumerate(part)) for part in packed
        )

    return png(32, 32, depth, colour, [row()] * 32, chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)))


@pytest.mark.parametrize(
    ("depth", "colour", "key", "other", "seen"),
    [
        (1, 0, (0,), (1,), (255, 255, 255)),
        (1, 0, (1,), (0,), (0, 0, 0)),
        (2, 0, (1,), (2,), (170, 170, 170)),
        (2, 0, (0,), (1,), (85, 85, 85)),
        (4, 0, (7,), (3,), (51, 51, 51)),
        (8, 0, (100,), (101,), (101, 101, 101)),
        (16, 0, (25_700,), (25_701 + 257,), (101, 101, 101)),
        (16, 0, (25_700,), (25_701,), (100, 100, 100)),
        (8, 2, (10, 20, 30), (10, 20, 31), (10, 20, 31)),
        (16, 2, (2570, 5140, 7710), (2570, 5140, 7967), (10, 20, 31)),
        (16, 2, (2570, 5140, 7710), (2570, 5140, 7711), (10, 20, 30)),
        (16, 2, (2571, 5140, 7710), (2570, 5140, 7710), (10, 20, 30)),
    ],
)
async def test_the_one_transparent_colour_is_seen(
    api: ApiUnderTest,
    depth: int,
    colour: int,
    key: tuple[int, ...],
    other: tuple[int, ...],
    seen: tuple[int, ...],
) -> None:
    picture, _ = await start(api, halves(depth, colour, key, other), 32, 32)
    assert (picture.getpixel((2, 9)), picture.getpixel((29, 9))) == ((255, 255, 255), seen)


async def test_transparency_of_every_other_kind_lies_on_white(api: ApiUnderTest) -> None:
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([9, 9, 9, 200, 10, 20])
    palette.paste(0, (0, 0, 16, 32))
    half = Image.merge("LA", (Image.new("L", (32, 32), 60), Image.new("L", (32, 32), 128)))
    for data, left in (
        (file_of(palette, transparency=0), (255, 255, 255)),
        (file_of(palette, transparency=b"\x80\xff"), (132, 132, 132)),
        (file_of(half), (157, 157, 157)),
        (file_of(half.convert("RGBA"), "WEBP", lossless=True), (157, 157, 157)),
    ):
        picture, _ = await start(api, data, 32, 32)
        pixel = picture.getpixel((2, 9))
        assert isinstance(pixel, tuple)
        assert all(abs(a - b) <= 1 for a, b in zip(pixel, left, strict=True)), pixel


def adobe_rgb(pixel: tuple[int, int, int]) -> tuple[int, ...]:
    """A colour of Adobe RGB (1998) in sRGB, by the two standards: 4.3.1 and annex C, and IEC 61966-2-1."""
    red, green, blue = ((value / 255) ** (563 / 256) for value in pixel)
    x = 0.57667 * red + 0.18556 * green + 0.18823 * blue
    y = 0.29734 * red + 0.62736 * green + 0.07529 * blue
    z = 0.02703 * red + 0.07069 * green + 0.99134 * blue
    linear = (
        3.2406 * x - 1.5372 * y - 0.4986 * z,
        -0.9689 * x + 1.8758 * y + 0.0415 * z,
        0.0557 * x - 0.2040 * y + 1.0570 * z,
    )
    cut = (min(1.0, max(0.0, value)) for value in linear)
    return tuple(round(255 * (12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055)) for v in cut)


async def test_a_profile_is_followed(api: ApiUnderTest) -> None:
    with Image.open(FOLDER / "icc_a98.png") as file:
        source, icc = file.convert("RGB"), file.info["icc_profile"]
    right = source.copy()
    for x in range(source.width):
        for y in range(source.height):
            pixel = source.getpixel((x, y))
            assert isinstance(pixel, tuple)
            right.putpixel((x, y), adobe_rgb((pixel[0], pixel[1], pixel[2])))
    assert error(source, right) > 10, "as read without it"
    data = (FOLDER / "icc_a98.png").read_bytes()
    picture, warnings = await start(api, data, *source.size)
    assert error(picture, right) < 0.3
    assert warnings == []
    # Under transparency too, in another format, and for grey that has a profile for colour.
    clear = source.copy()
    clear.putalpha(Image.new("L", source.size, 255))
    for kind in ("PNG", "WEBP"):
        how = {"lossless": True} if kind == "WEBP" else {}
        picture, _ = await start(api, file_of(clear, kind, icc_profile=icc, **how), *source.size)
        assert error(picture, right) < 0.3
    grey = Image.new("L", (32, 32), 100)
    picture, warnings = await start(api, file_of(grey, "JPEG", icc_profile=icc), 32, 32)
    assert (picture.getpixel((9, 9)), warnings) == (adobe_rgb((100, 100, 100)), [])


async def test_a_profile_of_grey_and_of_four_inks_is_followed(api: ApiUnderTest) -> None:
    grey = Image.new("L", (32, 32), 100)
    linear = round(255 * (1.055 * (100 / 255) ** (1 / 2.4) - 0.055))
    for one in (grey, Image.merge("LA", (grey, Image.new("L", (32, 32), 255)))):
        picture, warnings = await start(api, file_of(one, icc_profile=grey_profile(1.0)), 32, 32)
        pixel = picture.getpixel((9, 9))
        assert isinstance(pixel, tuple)
        assert abs(pixel[0] - linear) <= 2
        assert warnings == []
    for inks, right in (
        ((255, 0, 0, 0), (54, 156, 197)),  # CIELAB 60, -20, -30 under D50, by CIE 15 and IEC 61966-2-1
        ((0, 255, 0, 0), (255, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
    ):
        data = file_of(Image.new("CMYK", (32, 32), inks), "JPEG", quality=100, icc_profile=cmyk_profile())
        assert b"Adobe" in data, "whose values are inverted"
        picture, warnings = await start(api, data, 32, 32)
        pixel = picture.getpixel((9, 9))
        assert isinstance(pixel, tuple)
        assert all(abs(a - b) <= 4 for a, b in zip(pixel, right, strict=True)), pixel
        assert warnings == []


@pytest.mark.parametrize(
    ("picture", "icc"),
    [
        (Image.new("RGB", (32, 32), (9, 99, 199)), b"no profile at all"),
        (Image.new("RGB", (32, 32), (9, 99, 199)), grey_profile(2.2)),
        (Image.new("RGB", (32, 32), (9, 99, 199)), cmyk_profile()),
        (Image.new("RGB", (32, 32), (9, 99, 199)), grey_profile(2.2)[:150]),
    ],
)
async def test_a_profile_of_no_use_is_passed_over_with_a_warning(
    api: ApiUnderTest, picture: Image.Image, icc: bytes
) -> None:
    seen, warnings = await start(api, file_of(picture, icc_profile=icc), 32, 32)
    assert seen.getpixel((9, 9)) == (9, 99, 199)
    says = "The colour profile of init_image could not be used: its colours were read as sRGB."
    assert warnings == [says]
    job = await api.work()
    view = (await api.http.get(f"/v1/jobs/{job.id}")).json()
    assert view["warnings"] == [says, "cut"], "beside those of the worker"
    # The same pixels without a profile are the same request, and nothing is said of them.
    hit = await api.http.post(
        "/v1/jobs",
        json={"prompt": "a red apple", "width": 32, "height": 32, "init_image": text_of(file_of(picture))},
    )
    assert (hit.json()["cache"], hit.json()["warnings"]) == ("hit", ["cut"])


@pytest.mark.parametrize("turn", range(1, 9))
async def test_a_turned_photograph_is_as_sharp_as_an_upright_one(api: ApiUnderTest, turn: int) -> None:
    upright = Image.new("L", (100, 192))
    for y in range(0, 192, 4):
        upright.paste(255, (0, y, 100, y + 2))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    lying = upright.transpose(undo[turn]) if turn > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = turn
    right, _ = await start(api, file_of(upright, "JPEG", quality=95), 96, 32)
    seen, _ = await start(api, file_of(lying, "JPEG", quality=95, exif=exif), 96, 32)
    assert ImageStat.Stat(seen).stddev[0] > 0.97 * ImageStat.Stat(right).stddev[0]
    assert error(seen, right) < 12


async def test_a_large_picture_is_what_a_small_one_is(api: ApiUnderTest) -> None:
    """Averaged band by band, it is what one Lanczos of the whole would make of it."""
    source = Image.radial_gradient("L").resize((2001, 1503)).convert("RGB")
    source.paste((200, 30, 40), (700, 200, 1400, 1100))
    # The part of the middle that has the target's aspect.
    for (width, height), box in (
        ((128, 96), (0, 1.125, 2001, 1501.875)),
        ((96, 128), (436.875, 0, 1564.125, 1503)),
    ):
        right = source.resize((width, height), Image.Resampling.LANCZOS, box=box)
        for mode in ("RGB", "RGBA"):
            seen, _ = await start(api, file_of(source.convert(mode)), width, height)
            assert error(seen, right) < 0.6


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("exif_500_*.jpg")))
async def test_whatever_exif_holds_the_picture_is_read(api: ApiUnderTest, name: str) -> None:
    await start(api, (FOLDER / name).read_bytes(), 64, 64)


async def test_whatever_is_done_to_a_file_it_is_read_or_refused(api: ApiUnderTest) -> None:
    random_ = random.Random(20261129)
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010E: "a word", 0x011A: 72.0, 0x8298: "b", 0x9286: "c", 0x0100: 1})
    small = noise(40, 40)
    icc = (FOLDER / "icc_a98.png").read_bytes()
    files = [
        file_of(small, "JPEG", exif=exif),
        file_of(small, "JPEG", exif=exif, progressive=True),
        file_of(small.convert("CMYK"), "JPEG", icc_profile=cmyk_profile()),
        file_of(small, "WEBP", exif=exif),
        file_of(small.convert("P"), exif=exif, transparency=3),
        halves(16, 2, (1, 2, 3), (4, 5, 6)),
        icc,
    ]
    answers = set()
    for turn in range(280):
        data = bytearray(files[turn % len(files)])
        for _ in range(random_.choice((1, 1, 2, 8))):
            at = random_.randrange(2, min(len(data), 400) if turn % 3 else len(data))
            data[at] = random_.randrange(256)
        if turn % 11 == 0:
            del data[random_.randrange(4, len(data)) :]
        body = {"prompt": "a", "init_image": text_of(bytes(data)), "cache": "off"}
        response = await api.http.post("/v1/jobs", json=body)
        answers.add(response.status_code)
        assert response.status_code in (202, 422), (turn, response.text)
    assert answers == {202, 422}


async def test_the_rate_is_charged_before_the_picture_is_decoded(opened: Opener) -> None:
    api = await ready(await opened((), allow_anonymous=False, worker_ttl_s=1000))
    limits = {
        "tenant": "acme",
        "requests_per_minute": 1,
        "burst": 1,
        "images_per_day": 5,
        "concurrent_jobs": 3,
    }
    key = (await api.http.post("/v1/keys", json=limits, headers=ADMIN)).json()["key"]
    headers = {"Authorization": f"Bearer {key}"}
    damaged = text_of(file_of(noise(64, 64))[:3000])

    async def post(**body: Any) -> Any:
        return await api.http.post("/v1/jobs", json={"prompt": "a", **body}, headers=headers)

    # What is wrong before anything is decoded costs nothing.
    assert (await post(init_image="!")).status_code == 422
    assert (await post(init_image=damaged, webhook={"url": "http://10.0.0.1/"})).status_code == 422
    assert (await post(init_image=damaged)).status_code == 422
    refused = await post(init_image=damaged)
    assert (refused.status_code, refused.json()["error"]["details"]["limit"]) == (429, "requests_per_minute")
    assert refused.headers["retry-after"] == "60"
    # One request is one of its rate, whether it is decoded or not, and one picture of the day.
    api.clock.advance(61)
    accepted = await post(init_image=text_of(file_of(noise(64, 64))))
    assert accepted.status_code == 202
    assert '"images_per_day";r=4' in accepted.headers["ratelimit"]
    assert '"concurrent_jobs";r=2' in accepted.headers["ratelimit"]
    assert (await post()).status_code == 429
    api.clock.advance(61)
    assert (await post(prompt="b")).status_code == 202

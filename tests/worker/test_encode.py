"""Pixels to files: what is lossless is, nothing is told that was not asked for, and readers find what was."""

from __future__ import annotations

import asyncio
import io
import json
import re
import struct
import subprocess
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from sd_parsers import ParserManager
from sd_parsers.data import Generators

from backends.blobs import DirectoryBlobStore, blob_name
from contracts.engine import Pixels
from contracts.requests import MAX_JPEG_TEXT_BYTES, GenerationRequest
from runtime.clock import SystemClock
from worker.encode import NO_ROOM, Encoded, Encoder, Output, encode
from worker.exif import exif
from worker.png import png

REQUEST = GenerationRequest(
    model="m", prompt="a red apple", width=48, height=32, num_inference_steps=4, guidance_scale=7.5, seed=7
)
# What AUTOMATIC1111's reader looks for in the last line (modules/infotext_utils.py).
PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def picture(width: int = 48, height: int = 32) -> Pixels:
    """Smooth, with a little grain: what encoders are made for."""
    y, x = np.mgrid[:height, :width]
    grain = np.random.default_rng(0).integers(0, 4, (height, width, 3))
    rgb = np.stack([x * 5, y * 7, (x + y) * 3], axis=-1) % 250 + grain
    return Pixels(width, height, rgb.astype(np.uint8).tobytes())


def opened(file: Encoded) -> Image.Image:
    image = Image.open(io.BytesIO(file.data))
    image.load()
    return image


def array(pixels: Pixels) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.frombuffer(pixels.rgb, np.uint8).reshape(pixels.height, pixels.width, 3)


def by_the_book(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The pixels of a PNG of 8 bits a channel without interlacing, as the specification reads it: chunks, zlib, filters None and Up."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(body),)
        chunks.append((body[:4], body[4:]))
        at += 12 + length
    assert [kind for kind, _ in chunks][:: len(chunks) - 1] == [b"IHDR", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[0][1])
    assert rest == [8, 2, 0, 0, 0]
    lines = np.frombuffer(
        zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT")), np.uint8
    )
    rows = np.zeros((height + 1, width * 3), np.uint8)
    for row, line in enumerate(lines.reshape(height, 1 + width * 3)):
        assert line[0] in (0, 2)
        rows[row + 1] = line[1:] + (rows[row] if line[0] == 2 else 0)
    return rows[1:].reshape(height, width, 3)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))))
def test_a_png_is_its_pixels_to_every_reader(rgb: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    data = png(rgb)
    image = Image.open(io.BytesIO(data))
    image.verify()  # checksums of all chunks
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), rgb)
    assert np.array_equal(by_the_book(data), rgb)


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (Output("png"), "PNG"),
        (Output("jpeg"), "JPEG"),
        (Output("webp"), "WEBP"),
        (Output("webp", lossless=True), "WEBP"),
    ],
)
def test_each_format_is_what_it_says_and_looks_like_its_pixels(output: Output, kind: str) -> None:
    pixels = picture()
    file = encode(pixels, output)
    image = opened(file)
    assert (image.format, image.size) == (kind, (48, 32))
    assert file.content_type == f"image/{output.format}" == Image.MIME[kind]
    assert file.encode_ms > 0
    difference = np.asarray(image.convert("RGB")).astype(int) - array(pixels)
    if output.format == "png" or output.lossless:
        assert not difference.any()
    else:
        assert np.abs(difference).mean() < 12


@pytest.mark.parametrize("format_", ["jpeg", "webp"])
def test_quality_buys_bytes_and_likeness(format_: str) -> None:
    pixels = picture(256, 256)
    files = [encode(pixels, Output(format_, quality)) for quality in (10, 50, 95)]
    sizes = [len(file.data) for file in files]
    assert sizes == sorted(set(sizes))
    errors = [np.abs(np.asarray(opened(file)).astype(int) - array(pixels)).mean() for file in files]
    assert errors == sorted(errors, reverse=True)


def test_an_unknown_format_is_an_error() -> None:
    with pytest.raises(ValueError, match="gif"):
        encode(picture(), Output("gif"))


@pytest.mark.parametrize("format_", ["png", "jpeg", "webp"])
def test_a_file_tells_nothing_unless_asked(format_: str) -> None:
    request = REQUEST.model_copy(update={"output_format": format_})
    file = encode(picture(), Output.of(request, 0))
    image = opened(file)
    assert not image.getexif()
    assert {"parameters", "exif", "comment"}.isdisjoint(image.info)
    assert b"apple" not in file.data


def told(image: Image.Image) -> str:
    if image.format == "PNG":
        text = image.info["parameters"]
        assert isinstance(text, str)
        return text
    comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert comment.startswith(b"UNICODE\0")
    decoded: str = comment[8:].decode("utf-16-be")
    return decoded


KEPT: list[Image.Image] = []


@pytest.mark.parametrize("format_", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("prompt", ["a red apple", "Äpfel, ☂ und 🍎\nzwei Zeilen"])
def test_embedded_parameters_are_read_as_a1111_reads_them(format_: str, prompt: str) -> None:
    request = REQUEST.model_copy(
        update={
            "prompt": prompt,
            "negative_prompt": "blurred, dark",
            "model": "house: v1, final",
            "output_format": format_,
            "embed_metadata": True,
        }
    )
    pixels = picture()
    file = encode(pixels, Output.of(request, 2, "Euler", "SGM Uniform"))
    image = opened(file)
    *lines, last = told(image).split("\n")
    assert "\n".join(lines) == f"{prompt}\nNegative prompt: blurred, dark"
    assert dict(PAIR.findall(last)) == {
        "Steps": "4",
        "Sampler": "Euler",
        "Schedule type": "SGM Uniform",
        "CFG scale": "7.5",
        "Seed": "9",
        "Size": "48x32",
        "Model": '"house: v1, final"',
        "Version": "Darkroom",
    }
    if format_ == "png":
        assert np.array_equal(np.asarray(image), array(pixels))


@pytest.mark.parametrize("format_", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("prompt", ["a red apple", "Äpfel, ☂ und 🍎", "12:30, a clock: red\non the wall"])
def test_sd_parsers_reads_every_file(format_: str, prompt: str) -> None:
    """It finds nothing in a file that names no sampler."""
    changes = {
        "prompt": prompt,
        "negative_prompt": "blurred",
        "output_format": format_,
        "embed_metadata": True,
    }
    file = encode(picture(), Output.of(REQUEST.model_copy(update=changes), 2, "Euler", "Karras"))
    image = opened(file)
    # It remembers the last picture by its `id`, which the next one may have again (findings/).
    KEPT.append(image)
    found = ParserManager().parse(image)
    assert found is not None
    assert found.generator is Generators.AUTOMATIC1111
    (sampler,) = found.samplers
    assert sampler.name == "Euler"
    assert sampler.parameters == {"steps": "4", "cfg_scale": "7.5", "seed": "9", "scheduler": "Karras"}
    assert sampler.model is not None
    assert sampler.model.name == "m"
    assert [each.value for each in sampler.prompts] == [prompt]
    assert [each.value for each in sampler.negative_prompts] == ["blurred"]
    assert found.metadata == {"Size": "48x32", "Version": "Darkroom"}


@pytest.mark.parametrize("format_", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("embed", [True, False])
def test_exiftool_finds_nothing_to_object_to(format_: str, embed: bool, tmp_path: Path) -> None:
    path = tmp_path / f"picture.{format_}"
    changes = {"prompt": "Äpfel 🍎", "output_format": format_, "embed_metadata": embed}
    path.write_bytes(encode(picture(), Output.of(REQUEST.model_copy(update=changes), 0, "Euler")).data)
    asked = ["exiftool", "-json", "-validate", "-warning", "-a", "-UserComment", "-Parameters", str(path)]
    (told,) = json.loads(subprocess.run(asked, check=True, capture_output=True, timeout=60).stdout)
    assert told["Validate"] == "OK"
    assert "Warning" not in told
    text = told.get("Parameters" if format_ == "png" else "UserComment")
    assert (text is not None) == embed
    if text is not None:
        assert text.startswith("Äpfel 🍎\nSteps: 4, Sampler: Euler, CFG scale: 7.5, Seed: 7, ")


@pytest.mark.parametrize("length", [0, 1, 2, 3, 1000])
def test_a_comment_has_the_type_that_exif_gives_it(length: int) -> None:
    data = exif("x" * length, 48, 32)
    (tag,) = [at for at in range(len(data)) if data[at : at + 2] == b"\x92\x86"]
    kind, count, place = struct.unpack_from(">HII", data, tag + 2)
    assert kind == 7, "UNDEFINED"
    assert data[6 + place : 6 + place + count] == b"UNICODE\0" + ("x" * length).encode("utf-16-be")
    read = Image.Exif()
    read.load(data)
    own = read.get_ifd(0x8769)
    assert (own[0x9286], own[0xA002], own[0xA003]) == (
        b"UNICODE\0" + ("x" * length).encode("utf-16-be"),
        48,
        32,
    )


def test_what_a_jpeg_cannot_hold_is_left_out_and_said() -> None:
    pixels = picture()
    longest = (65_533 - len(exif("", 48, 32))) // 2
    assert longest * 2 > MAX_JPEG_TEXT_BYTES, "what the API lets through has room for the parameters too"
    fits = encode(pixels, Output("jpeg", text="x" * longest))
    assert told(opened(fits)) == "x" * longest
    assert fits.warnings == ()
    over = encode(pixels, Output("jpeg", text="x" * (longest + 1)))
    assert over.warnings == (NO_ROOM,)
    assert over.data == encode(pixels, Output("jpeg")).data
    for format_ in ("png", "webp"):
        file = encode(pixels, Output(format_, text="x" * 100_000))
        assert file.warnings == ()
        assert told(opened(file)) == "x" * 100_000


@pytest.mark.anyio
async def test_an_encoder_writes_each_picture_as_asked(anyio_backend: str) -> None:
    encoder = Encoder()
    try:
        files = [await encoder.encode(picture(), Output(format_)) for format_ in ("png", "jpeg", "webp")]
    finally:
        encoder.close()
    assert [opened(file).format for file in files] == ["PNG", "JPEG", "WEBP"]


@pytest.mark.anyio
async def test_a_picture_is_encoded_named_and_written_in_one_hop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> None:
    hops, submit = [], ThreadPoolExecutor.submit

    def counted(*given: Any) -> Any:
        hops.append(given)
        return submit(*given)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", counted)
    store = DirectoryBlobStore(tmp_path, SystemClock())
    encoder = Encoder(store.write)
    file = await encoder.encode(picture(), Output())
    assert len(hops) == 1
    encoder.close()
    assert file.name == blob_name(file.data, "png")
    assert await store.get(file.name) == file.data


@pytest.mark.anyio
async def test_a_picture_that_cannot_be_written_is_there_to_be_stored_again(
    tmp_path: Path, anyio_backend: str
) -> None:
    root = tmp_path / "file"
    root.write_bytes(b"no folder")
    encoder = Encoder(DirectoryBlobStore(root, SystemClock()).write)
    files = await asyncio.gather(*(encoder.encode(picture(), Output(each)) for each in ("png", "webp")))
    encoder.close()
    assert [file.name for file in files] == [None, None]
    root.unlink()
    for file in files:
        name = await DirectoryBlobStore(root, SystemClock()).put(file.data, file.format)
        assert (root / name[:2] / name).read_bytes() == file.data


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["void", "cancelled"])
async def test_a_picture_that_nobody_wants_any_more_is_not_written(
    how: str, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> None:
    begun, gate, written = threading.Event(), threading.Event(), list[bytes]()

    def gated(pixels: Pixels, output: Output) -> Encoded:
        begun.set()
        assert gate.wait(30)
        return encode(pixels, output)

    def write(data: bytes, format_: str) -> str:
        written.append(data)
        return blob_name(data, format_)

    monkeypatch.setattr("worker.encode.encode", gated)
    encoder, void = Encoder(write), asyncio.Event()
    encoding = encoder.encode(picture(), Output(), void.is_set)
    assert await asyncio.to_thread(begun.wait, 30)
    if how == "void":
        void.set()
        gate.set()
        assert (await encoding).name is None
    else:
        encoding.cancel()
        await asyncio.wait([encoding])
        gate.set()
    await asyncio.to_thread(encoder._pool.shutdown)
    assert written == []


@pytest.mark.anyio
async def test_whoever_waits_for_a_picture_hears_why_there_is_none(
    monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> None:
    def breaks(pixels: Pixels, output: Output) -> Encoded:
        raise RuntimeError("of our own code")

    encoder = Encoder()
    with monkeypatch.context() as patch:
        patch.setattr("worker.encode.encode", breaks)
        with pytest.raises(RuntimeError, match="of our own code"):
            await encoder.encode(picture(), Output())
    assert (await encoder.encode(picture(), Output())).data
    encoder.close()


@pytest.mark.anyio
async def test_files_that_are_ready_together_are_delivered_together(
    monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> None:
    monkeypatch.setattr("worker.encode.TOGETHER_S", 0.2)
    turns, encoder = list[int](), Encoder()
    deliver = encoder._deliver

    def delivered() -> None:
        turns.append(len(encoder._ready))
        deliver()

    monkeypatch.setattr(encoder, "_deliver", delivered)
    alone = await encoder.encode(picture(), Output())
    assert (alone.format, turns) == ("png", [1])
    await asyncio.gather(*(encoder.encode(picture(), Output()) for _ in range(6)))
    assert sum(turns) == 7
    assert sum(size > 0 for size in turns) <= 3, "once, or twice where they take longer than the pause"
    encoder.close()


@pytest.mark.anyio
async def test_a_file_that_takes_long_holds_up_no_other(anyio_backend: str) -> None:
    gate, stuck = threading.Event(), threading.Event()

    def write(data: bytes, kind: str) -> str:
        if not stuck.is_set():
            stuck.set()
            gate.wait(20)
        return "name"

    encoder = Encoder(write)
    slow = encoder.encode(picture(), Output())
    await asyncio.to_thread(stuck.wait, 20)
    async with asyncio.timeout(10):
        await encoder.encode(picture(), Output())
    assert not slow.done()
    gate.set()
    assert (await slow).name == "name"
    encoder.close()

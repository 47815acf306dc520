"""The storm's own parts, and a gust of it against the real platform. `make storm` blows for an hour."""

from __future__ import annotations

import io
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from api.body import as_model
from api.job_request import EXPECTED, JobRequest
from api.normalise import normalise
from api.openai import EXPECTED as OPENAI_EXPECTED
from api.openai import ImagesRequest, to_job
from api.pictures.prepare import FORMATS
from contracts.errors import DarkroomError, ModelNotFound
from contracts.models import ModelSpec
from contracts.settings import ApiSettings
from tests.faults.history import Counts
from tests.store.test_others import spec
from tests.storm import png
from tests.storm.generator import MODES, Asked, Model, asked
from tests.storm.outcome import Outcome, Tally, violations
from tests.storm.pictures import KINDS, picture
from tests.storm.run import CLIENTS, storm

SETTINGS = ApiSettings()
SECONDS = 12.0


def announced(known: ModelSpec) -> Model:
    """What `GET /v1/models` tells of it, as far as requests depend on it."""
    return {
        "id": known.name,
        "size_multiple": known.size_multiple,
        "min_size": known.min_size,
        "max_size": known.max_size,
        "max_pixels": known.max_pixels,
        "max_num_inference_steps": known.max_steps,
        "max_guidance_scale": known.max_guidance_scale,
        "max_num_images": min(SETTINGS.max_images_per_job, known.max_batch),
        "init_images": known.init_images,
        "loras": [each.name for each in known.loras],
    }


TURBO = spec("turbo").model_copy(update={"max_steps": 1, "init_images": True})
BASE = spec("base").model_copy(update={"max_steps": 100, "init_images": True})
SPECS = {"turbo": TURBO, "base": BASE}
MODELS = [announced(each) for each in SPECS.values()]


def refusal(body: dict[str, Any], *, openai: bool) -> DarkroomError | None:
    """What the API would say against `body`, before it looks at a picture."""
    try:
        request = (
            to_job(as_model(body, ImagesRequest, OPENAI_EXPECTED))
            if openai
            else as_model(body, JobRequest, EXPECTED)
        )
        known = SPECS.get(request.model or "")
        if known is None:
            raise ModelNotFound("There is no such model.")
        normalise(request, known, SETTINGS, scope="t", random_seed=lambda: 1, init_image="0.png")
    except DarkroomError as error:
        return error
    return None


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32), st.integers(0, 10**6))
def test_every_request_is_within_the_limits_unless_it_is_spoiled(seed: int, index: int) -> None:
    made = asked(seed, index, MODELS)
    assert made == asked(seed, index, MODELS), "it can be sent again"
    for body in made.bodies:
        refused = refusal(body, openai=made.mode.startswith("openai"))
        if made.mode == "spoiled":
            assert refused or len(body["init_image"]) <= 16, "that picture cannot be decoded"
        else:
            assert refused is None, refused


def storm_of(count: int) -> Iterator[Asked]:
    return (asked(1, index, MODELS) for index in range(count))


def test_a_storm_has_every_mode_field_and_kind() -> None:
    made = list(storm_of(1500))
    assert {each.mode for each in made} == set(MODES)
    assert {kind for each in made for kind in each.pictures} == set(KINDS)
    assert len(KINDS) >= 40
    fields = {name for each in made for body in each.bodies for name in body}
    # Adapters are not served by the embedded platform, webhooks have storms of their own.
    assert fields >= (set(JobRequest.model_fields) - {"webhook", "lora", "similarity"})
    hot = [str(body) for each in made if not each.mode.startswith("openai") for body in each.bodies]
    assert len(set(hot)) < 0.95 * len(hot), "some come again"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_is_one_file_that_can_be_read(kind: str) -> None:
    data = picture(kind, random.Random(7))
    assert data == picture(kind, random.Random(7))
    assert len(data) <= SETTINGS.max_init_image_bytes
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        opened.load()
        assert opened.format == kind.split()[0].upper()
        assert opened.width * opened.height <= SETTINGS.max_init_image_pixels


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "mode"), [(png.GREY, "L"), (png.RGB, "RGB"), (png.RGBA, "RGBA")])
def test_pixels_of_a_written_png_are_where_they_belong(colour: int, mode: str, interlaced: bool) -> None:
    rows = png.gradient(random.Random(3), 13, 11, colour, 8)
    with Image.open(io.BytesIO(png.written(rows, colour, 8, interlaced=interlaced))) as opened:
        assert opened.mode == mode
        assert opened.tobytes() == bytes(value for row in rows for value in row)


def test_bits_are_packed_from_the_left() -> None:
    assert png.packed([1, 0, 1, 1, 0, 0, 0, 1, 1], 1) == b"\xb1\x80"
    assert png.packed([3, 0, 1], 2) == b"\xc4"
    assert png.packed([10, 5, 1], 4) == b"\xa5\x10"
    assert png.packed([258, 1], 16) == b"\x01\x02\x00\x01"
    assert zlib.crc32(b"IENDx") == int.from_bytes(png.chunk(b"IEND", b"x")[-4:], "big")


def job(status: str) -> dict[str, Any]:
    return {"id": "job_1", "status": status, "error": {"code": "engine_fault", "message": "it broke"}}


def test_a_job_ends_as_its_request_allows() -> None:
    for status, body, canceled, right in (
        ("succeeded", {}, False, True),
        ("failed", {}, False, False),
        ("expired", {}, False, False),
        ("expired", {"timeout_seconds": 1.0}, False, True),
        ("canceled", {}, False, False),
        ("canceled", {}, True, True),
        ("queued", {}, False, False),
    ):
        outcome = Outcome(0, "poll")
        outcome.job(job(status), body, may_be_canceled=canceled)
        assert (not outcome.faults) == right, (status, body)


def test_a_refusal_is_right_for_a_short_time_alone() -> None:
    outcome, full = Outcome(0, "poll"), {"code": "queue_full"}
    assert outcome.refused_for_its_time(503, full, {"timeout_seconds": 0.1})
    assert not outcome.refused_for_its_time(503, full, {})
    assert not outcome.refused_for_its_time(503, {"code": "store_unavailable"}, {"timeout_seconds": 0.1})
    assert not outcome.refused_for_its_time(500, full, {"timeout_seconds": 0.1})
    assert outcome.too_short == 1


GOOD = Counts(3, {"succeeded": 2, "canceled": 1, "failed": 0}, 0)


@pytest.mark.parametrize(
    ("counts", "status", "fault", "death", "says"),
    [
        (GOOD, 200, "", "", ""),
        (GOOD, 500, "", "", "1 answers of 500"),
        (GOOD, 200, "a PNG of (1, 1)", "", "request 0: a PNG"),
        (GOOD, 200, "", "worker-1 ended with -9", "worker-1 ended"),
        (Counts(3, {"succeeded": 2}, 0), 200, "", "", "3 jobs accepted, 2 ended"),
        (Counts(3, {"succeeded": 3}, 1), 200, "", "", "1 still live"),
        (Counts(3, {"succeeded": 2, "failed": 1}, 0), 200, "", "", "1 jobs failed"),
    ],
)
def test_what_must_not_be_is_a_violation(
    counts: Counts, status: int, fault: str, death: str, says: str
) -> None:
    tally = Tally()
    tally.add(Outcome(0, "poll", statuses=[200, status], faults=[fault] if fault else []))
    found = violations(tally, counts, [death] if death else [])
    assert (found == []) == (says == "")
    assert says in "".join(found)


def test_a_storm_without_a_request_shows_nothing() -> None:
    assert violations(Tally(), Counts(), []) == ["nothing was asked"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_gust_breaks_nothing(tmp_path: Path) -> None:
    report = storm(tmp_path, seed=1, seconds=SECONDS)
    assert report.found == [], report.table()
    assert report.tally.requests >= CLIENTS
    assert report.counts.recorded > 0
    assert {"api", "worker-1", "worker-2", "engine-1", "engine-2", "webhooks"} <= report.uses.keys()
    assert (tmp_path / "log.jsonl").read_text().count("\n") == report.tally.requests

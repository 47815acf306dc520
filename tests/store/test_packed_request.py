"""Requests with long texts are stored compressed, and read whole; records of before are read as ever."""

from __future__ import annotations

import json
import random

import pytest

from contracts.documents import SCHEMA
from contracts.errors import RecordUnreadable
from contracts.requests import GenerationRequest
from store.jobs import RedisJobStore
from store.packed_request import MAX_BYTES, PACK_FROM_CHARS, pack, unpack
from tests.store.conftest import World
from tests.store.made import new, result, taken

WORDS = (
    "a red apple on the table of an old inn, soft light from the left, oil on canvas, 18th century, detailed "
)


def request(prompt: str, **more: object) -> GenerationRequest:
    return new().request.model_copy(update={"prompt": prompt, **more})


@pytest.mark.parametrize(
    "prompt",
    ["short", WORDS * 20, '"min_schema":9,"zlib":"\\', '{"min_schema":1,"zlib":"x"}' * 99, "☂" * 2000],
)
def test_what_is_packed_is_read_whole(prompt: str) -> None:
    asked = request(prompt)
    assert unpack(pack(asked)) == asked


def test_long_texts_take_less_room_and_short_ones_are_left_alone() -> None:
    long, short = request(WORDS * 19, negative_prompt=WORDS[::-1] * 19), request("a red apple")
    assert len(pack(long)) < len(long.model_dump_json()) / 4
    assert pack(short) == short.model_dump_json()
    assert len(short.model_dump_json()) < PACK_FROM_CHARS


def test_what_does_not_compress_is_not_stored_longer() -> None:
    chance = random.Random(1)
    noise = "".join(chr(chance.randrange(0x4E00, 0x9FFF)) for _ in range(2000))
    asked = request(noise)
    assert len(pack(asked).encode()) <= len(asked.model_dump_json().encode())
    assert unpack(pack(asked)) == asked


def test_fields_of_another_version_and_its_schema_survive() -> None:
    newer = GenerationRequest.model_validate(
        {**request(WORDS * 20).model_dump(), "hue": "warm", "min_schema": SCHEMA + 1}
    )
    packed = pack(newer)
    assert json.loads(packed)["min_schema"] == SCHEMA + 1
    assert unpack(packed) == newer


@pytest.mark.parametrize("damage", [lambda t: t[:-40] + t[-2:], lambda t: t.replace('"zlib":"', '"zlib":"0')])
def test_what_is_damaged_is_no_request(damage: object) -> None:
    with pytest.raises(ValueError, match=r"damaged|chunk|multiple|base85|overflow"):
        unpack(damage(pack(request(WORDS * 20))))  # type: ignore[operator]


def test_a_text_that_would_grow_without_end_is_cut() -> None:
    huge = request("a" * (2 * MAX_BYTES))
    with pytest.raises(ValueError, match="too long"):
        unpack(pack(huge))


@pytest.mark.anyio
async def test_jobs_with_long_texts_go_their_way(world: World) -> None:
    jobs, asked = world.stores.jobs, request(WORDS * 19)
    hit = new().model_copy(update={"request": asked})
    assert (await jobs.submit(hit, result())).job.request == asked
    computed = new("b" * 64).model_copy(update={"request": asked})
    assert (await jobs.submit(computed)).job.request == asked
    (mine,) = await taken(jobs, 9)
    assert mine.message.request == asked
    for job in (hit, computed):
        assert (await jobs.get("public", job.id)).request == asked
    if isinstance(jobs, RedisJobStore):
        stored = str(await jobs._client.hget(jobs.layout.job_key(hit.id), "request"))
        assert len(stored) < len(asked.model_dump_json()) / 2
        # As a version before this one wrote it.
        await jobs._client.hset(jobs.layout.job_key(hit.id), "request", asked.model_dump_json())
        assert (await jobs.get("public", hit.id)).request == asked
        await jobs._client.hset(jobs.layout.job_key(hit.id), "request", stored[:-9] + '"}')
        with pytest.raises(RecordUnreadable):
            await jobs.get("public", hit.id)


@pytest.mark.anyio
@pytest.mark.parametrize("world", ["redis", "cluster"], indirect=True)
async def test_one_that_needs_a_newer_worker_is_left_to_it(world: World) -> None:
    asked = request(WORDS * 19, min_schema=SCHEMA + 1)
    await world.stores.jobs.submit(new().model_copy(update={"request": asked}))
    assert await taken(world.stores.jobs, 9) == []

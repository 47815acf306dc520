"""Init images are judged before anything is drawn: by real lists, and by a real head on a real CLIP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.blobs import HELD as FOLDER
from contracts.engine import Pixels
from contracts.errors import StoreUnavailable
from contracts.ids import new_job_id
from contracts.jobs import CacheStatus, JobStatus, NewJob, Origin
from contracts.reviews import PastDecision, ReviewState
from contracts.tenancy import Charge, Limits
from moderation.judge import open_judge
from moderation.live import LivePolicy
from runtime.clock import SystemClock
from tests.worker.conftest import Room, address
from tests.worker.policies import BLOCKED, HELD, SHOWN, TAGGED, file_of, name_of
from worker.deliveries import Verdict as Delivered
from worker.encode import Output, encode
from worker.init_images import InitEmbedder, InitImages

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
CLIP = str(ROOT / "models" / "emoji-clip")
under_policy = pytest.mark.parametrize("room", [{"policy": True}], indirect=True)
OTHER = 4711
"""The seed of an image that no list knows."""


async def started_from(room: Room, seed: int, **fields: Any) -> Any:
    """A job that starts from the image of a seed, and how it ended."""
    name = await room.stores.blobs.put(file_of(seed), "png", is_input=True)
    message = await room.submit("a", init_image=name, strength=1.0, seed=OTHER, **fields)
    assert await room.run(message) == [Delivered.ACK]
    return message, await room.job(message)


@under_policy
async def test_a_blocked_init_image_ends_the_job_uncharged_before_anything_is_drawn(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    add = room.batcher.add

    def noted(*arguments: Any) -> Any:
        drawn.append(arguments)
        return add(*arguments)

    monkeypatch.setattr(room.batcher, "add", noted)
    quotas, limits = room.stores.quotas, Limits(images_per_day=9)
    name = await room.stores.blobs.put(file_of(BLOCKED), "png", is_input=True)
    message = await room.submit("a", init_image=name, strength=1.0)
    first = await room.job(message)
    follower = NewJob(
        id=new_job_id(2.0, first.key[0]),
        tenant="public",
        key=first.key,
        request=first.request,
        ttl_s=60.0,
        origin=Origin(key_id="dk_12345678"),
    )
    assert (await room.stores.jobs.submit(follower)).job.cache is CacheStatus.JOINED
    await quotas.admit("dk_12345678", limits, Charge(follower.id, 1, computed=True))
    assert await room.run(message) == [Delivered.ACK]
    for job_id in (message.job_id, follower.id):
        job = await room.stores.jobs.get("public", job_id)
        assert (job.status, job.failure is not None) == (JobStatus.FAILED, True)
        assert job.failure is not None
        assert (job.failure.code, job.failure.retryable) == ("content_blocked", False)
        assert "violence" not in job.failure.message
    account = await quotas.admit("dk_12345678", limits, Charge("job_x", 1, computed=True))
    assert account.images == 1, "the image of the blocked job is given back"
    assert drawn == []
    assert room.publisher.published == []
    assert await room.stores.results.get(address(message)) is None


@under_policy
async def test_an_init_image_in_review_holds_every_image(room: Room) -> None:
    message, job = await started_from(room, HELD, num_images=2)
    assert job.status is JobStatus.SUCCEEDED
    assert [image.moderation.state for image in job.result.images] == ["in_review"] * 2
    assert all(image.name.startswith(FOLDER) for image in job.result.images)
    review, _ = (await room.stores.reviews.page(9))[0]
    assert review.case.verdict.categories == ("weapons",)
    assert {finding.layer for finding in review.case.verdict.findings} == {"hashes"}
    assert await room.stores.results.get(address(message)) is None


@under_policy
@pytest.mark.parametrize(("seed", "state"), [(TAGGED, "tagged"), (SHOWN, "passed")])
async def test_another_init_image_is_drawn_from(room: Room, seed: int, state: str) -> None:
    message, job = await started_from(room, seed)
    assert [image.moderation.state for image in job.result.images] == [state]
    assert await room.stores.results.get(address(message)) == job.result


@under_policy
async def test_what_people_released_may_be_drawn_from(room: Room) -> None:
    past = PastDecision(state=ReviewState.RELEASED, decision_id="d", at=1.0)
    await room.stores.reviews.remember(name_of(HELD), past)
    _, job = await started_from(room, HELD)
    assert [image.moderation.state for image in job.result.images] == ["passed"]
    assert job.result.images[0].moderation.findings == (), "so its cached result is shown later too"


@under_policy
async def test_a_store_that_is_away_lets_no_init_image_through(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    past, asked = room.stores.reviews.past, 0

    async def flaky(names: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise StoreUnavailable("away")
        return await past(names)

    monkeypatch.setattr(room.stores.reviews, "past", flaky)
    _, job = await started_from(room, HELD)
    assert [image.moderation.state for image in job.result.images] == ["in_review"]
    assert asked > 1


@pytest.mark.parametrize("room", [{}], indirect=True)
async def test_without_a_policy_nothing_looks(room: Room) -> None:
    _, job = await started_from(room, BLOCKED)
    assert [image.moderation for image in job.result.images] == [None]


@pytest.mark.parametrize("room", [{}], indirect=True)
async def test_a_head_sees_the_init_image_by_the_embedding_of_another_process(
    room: Room, tmp_path: Path
) -> None:
    """The head must score it: without an embedding its layer would be away, and the image held."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "name: house\nversion: 1\n"
        "pictures: {heads: [{file: 'builtin:heads/weapons.pictures.json'}], time_limit_s: 60}\n"
        "rules: {weapons: {pictures: block}}\n"
    )
    head = ROOT / "moderation" / "heads" / "weapons.pictures.json"
    clip, reviews = json.loads(head.read_text())["clip"], room.stores.reviews
    live = LivePolicy.opened(policy, lambda each: open_judge(each, clip))
    embedder = InitEmbedder(CLIP, SystemClock())
    grey = np.full((64, 64, 3), 200, np.uint8).tobytes()
    file = encode(Pixels(64, 64, grey), Output()).data
    judge: Any = live
    try:
        seen = await InitImages(judge, reviews, embedder, clip).of("t", file, grey, 64, 64)
        assert (seen.state, seen.away) == ("passed", ())
        blind = await InitImages(judge, reviews, InitEmbedder("", SystemClock()), clip).of(
            "t", file, grey, 64, 64
        )
        assert (blind.state, blind.away) == ("in_review", ("pictures",))
    finally:
        await embedder.close()
        live.now.compiled.close()


@under_policy
async def test_a_worker_without_the_policy_of_the_job_blocks_no_init_image(room: Room) -> None:
    """It cannot say what that policy would. A person looks at what was drawn."""
    _, job = await started_from(room, BLOCKED, policy="another@1", min_schema=2)
    assert job.status is JobStatus.SUCCEEDED
    (image,) = job.result.images
    assert image.moderation.state == "in_review"

"""A worker with a policy: held, blocked and tagged images, by real lists of the files that its seeds draw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.blobs import HELD as FOLDER
from contracts.errors import SettingsError
from contracts.ids import new_job_id
from contracts.jobs import CacheStatus, Change, JobStatus, NewJob, Origin, Preview
from contracts.moderation import Finding, Verdict
from contracts.reviews import PastDecision, ReviewState
from contracts.settings import WorkerSettings
from contracts.tenancy import Charge, Limits
from moderation.carrying import Carrying
from moderation.judge import LayeredJudge
from moderation.policy import Looks
from runtime.clock import SystemClock
from tests.store.conftest import watching
from tests.worker.conftest import Room, address
from tests.worker.policies import BLOCKED, HELD, SHOWN, TAGGED, file_of, name_of
from worker.deliveries import Verdict as Delivered
from worker.verdicts import check_policy

UNDONE = PastDecision(state=ReviewState.WAITING, decision_id="d2", at=2.0)
"""What is kept of a release that was taken back."""

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.parametrize("room", [{"policy": True}], indirect=True),
]


async def until_the_end(events: AsyncIterator[Change]) -> AsyncIterator[Change]:
    """The events up to the last one."""
    async for event in events:
        yield event
        if event.terminal:
            return


async def drawn(room: Room, **fields: Any) -> Any:
    message = await room.submit("a", **fields)
    assert await room.run(message) == [Delivered.ACK]
    return message, await room.job(message)


async def test_each_image_is_stored_as_its_verdict_says(room: Room) -> None:
    message, job = await drawn(room, seed=HELD, num_images=4)
    assert job.status is JobStatus.SUCCEEDED
    held, blocked, tagged, shown = job.result.images
    assert [image.moderation.state for image in job.result.images] == [
        "in_review",
        "blocked",
        "tagged",
        "passed",
    ]
    assert (held.name, blocked.name) == (FOLDER + name_of(HELD), "")
    assert (tagged.name, shown.name) == (name_of(TAGGED), name_of(SHOWN))
    assert held.moderation.policy == "house@3"
    blobs = room.stores.blobs
    assert await blobs.get(held.name) == file_of(HELD)
    for absent in (name_of(HELD), name_of(BLOCKED), FOLDER + name_of(BLOCKED)):
        assert not await blobs.exists(absent)
    assert await blobs.exists(tagged.name)
    (review,) = await room.stores.reviews.find(name_of(HELD))
    assert [(each.id, each.indexes) for each in review.jobs] == [(job.id, (0,))]
    assert (review.case.prompt, review.case.seed, review.severity) == ("a", HELD, 3)
    assert await room.stores.results.get(address(message)) is None


async def test_what_is_shown_is_cached_with_its_verdict(room: Room) -> None:
    message, job = await drawn(room, seed=SHOWN)
    assert await room.stores.results.get(address(message)) == job.result
    assert job.result.images[0].moderation == Verdict(state="passed", policy="house@3")


async def test_a_job_whose_images_are_all_blocked_fails_uncharged_with_its_followers(room: Room) -> None:
    """It is not retried, and neither is the job that joined it."""
    quotas, limits = room.stores.quotas, Limits(images_per_day=9)
    message = await room.submit("a", seed=BLOCKED)
    job = await room.job(message)
    follower = NewJob(
        id=new_job_id(2.0, job.key[0]),
        tenant="public",
        key=job.key,
        request=job.request,
        ttl_s=60.0,
        origin=Origin(key_id="dk_12345678"),
    )
    assert (await room.stores.jobs.submit(follower)).job.cache is CacheStatus.JOINED
    for _ in range(2):
        await quotas.admit("dk_12345678", limits, Charge(follower.id, 1, computed=True))
    assert await room.run(message) == [Delivered.ACK]
    for job_id in (message.job_id, follower.id):
        ended = await room.stores.jobs.get("public", job_id)
        assert (ended.status, ended.attempt) in ((JobStatus.FAILED, 1), (JobStatus.FAILED, 0))
        assert ended.failure is not None
        assert (ended.failure.code, ended.failure.retryable) == ("content_blocked", False)
        assert "violence" not in ended.failure.message
    assert room.publisher.published == []
    account = await quotas.admit("dk_12345678", limits, Charge("job_x", 1, computed=True))
    assert account.images == 2, "the image of the blocked job is given back"
    assert not await room.stores.blobs.exists(name_of(BLOCKED))


async def test_a_blocked_job_is_not_charged_although_its_worker_dies_as_it_ends(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker dies between the end and the refund. Any API process pays what is owed."""
    stores, limits = room.stores, Limits(images_per_day=9)
    message = await room.submit("a", seed=BLOCKED, origin=Origin(key_id="dk_12345678"))
    await stores.quotas.admit("dk_12345678", limits, Charge(message.job_id, 1, computed=True))
    died = asyncio.Event()

    async def dead(*_: Any, **__: Any) -> None:
        died.set()
        raise asyncio.CancelledError

    for store, step in ((stores.quotas, "refund"), (stores.refunds, "pay")):
        monkeypatch.setattr(store, step, dead)
    run = asyncio.create_task(room.run(message))
    async with asyncio.timeout(30):
        await died.wait()
    run.cancel()
    await asyncio.wait({run})
    monkeypatch.undo()
    await Carrying(stores, stores.moderation_log, SystemClock(), 3600.0).tick()
    account = await stores.quotas.admit("dk_12345678", limits, Charge("job_x", 0, computed=False))
    assert account.images == 0


async def test_a_prompt_in_review_holds_every_image_whatever_it_shows(room: Room) -> None:
    finding = Finding(layer="words", category="weapons", source="list")
    prompt = Verdict(
        state="in_review", categories=("weapons",), policy="house@3", layer="words", findings=(finding,)
    )
    _, job = await drawn(room, seed=SHOWN, moderation=prompt)
    (image,) = job.result.images
    assert (image.name, image.moderation.state) == (FOLDER + name_of(SHOWN), "in_review")
    assert image.moderation.findings == (finding,)
    assert not await room.stores.blobs.exists(name_of(SHOWN))


@pytest.mark.parametrize("own", ["none", "another", "blind"])
async def test_a_worker_that_cannot_judge_by_the_policy_of_a_job_shows_no_image_of_it(
    room: Room, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no policy, another one, or one of that name that looks at no images."""
    pictures = room.runner._pictures
    if own == "none":
        pictures._verdicts = None
        room.runner._verdicts = None
    else:
        live = pictures._verdicts._live  # type: ignore[union-attr]
        blind = {"pictures": Looks()} if own == "blind" else {"name": "another"}
        monkeypatch.setattr(
            live, "_in_force", replace(live.now, policy=live.now.policy.model_copy(update=blind))
        )
    message = await room.submit(
        "slow=0.1 a", seed=SHOWN, num_inference_steps=4, previews=3, policy="house@3", min_schema=2
    )
    async with watching(room.stores.events, message.job_id) as events:
        assert await room.run(message) == [Delivered.ACK]
        async with asyncio.timeout(10):
            seen = [event async for event in until_the_end(events)]
    assert not [event for event in seen if isinstance(event, Preview)]
    result = (await room.job(message)).result
    assert result is not None
    (image,) = result.images
    drawn_name = image.name.removeprefix(FOLDER)
    assert (image.name, image.moderation.state) == (FOLDER + drawn_name, "in_review")  # type: ignore[union-attr]
    assert (image.moderation.away, image.moderation.policy) == (("pictures",), "house@3")  # type: ignore[union-attr]
    assert not await room.stores.blobs.exists(drawn_name)
    assert [review.name for review in (await room.stores.reviews.page(9))[0]] == [drawn_name]
    assert await room.stores.results.get(address(message)) is None


async def test_a_worker_of_another_version_of_the_policy_judges(room: Room) -> None:
    _, job = await drawn(room, seed=SHOWN, policy="house@2", min_schema=2)
    assert job.result.images[0].moderation == Verdict(state="passed", policy="house@3")


async def test_a_worker_without_a_policy_holds_what_the_api_holds(room: Room) -> None:
    """Its settings lack the policy: what the request says holds all the same."""
    room.runner._pictures._verdicts = None
    prompt = Verdict(state="in_review", categories=("weapons",), policy="house@3", layer="words")
    _, job = await drawn(room, seed=SHOWN, moderation=prompt)
    (image,) = job.result.images
    assert (image.name, image.moderation) == (FOLDER + name_of(SHOWN), prompt)
    assert not await room.stores.blobs.exists(name_of(SHOWN))
    assert [review.name for review in (await room.stores.reviews.page(9))[0]] == [name_of(SHOWN)]
    _, plain = await drawn(room, seed=SHOWN)
    assert plain.result.images[0].moderation is None


@pytest.mark.parametrize(
    ("before", "state"), [(ReviewState.RELEASED, "released"), (ReviewState.REFUSED, "refused")]
)
async def test_what_people_have_decided_is_not_asked_again(
    room: Room, before: ReviewState, state: str
) -> None:
    past = PastDecision(state=before, decision_id="d1", at=1.0)
    await room.stores.reviews.remember(name_of(HELD), past)
    _, job = await drawn(room, seed=HELD, num_images=4)
    image = job.result.images[0]
    assert (image.moderation.state, image.moderation.layer) == (state, "people")
    assert image.name == (name_of(HELD) if before is ReviewState.RELEASED else "")
    assert (await room.stores.reviews.page(9))[0] == []


async def test_a_release_that_is_taken_back_while_its_image_is_stored_shows_nothing(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker heard of the release before. Who undoes it deletes the public file, which is not there yet."""
    reviews, put = room.stores.reviews, room.stores.blobs.put
    await reviews.remember(name_of(HELD), PastDecision(state=ReviewState.RELEASED, decision_id="d1", at=1.0))

    async def undone_before(data: bytes, extension: str, **place: bool) -> str:
        await reviews.remember(name_of(HELD), UNDONE)
        return await put(data, extension, **place)

    monkeypatch.setattr(room.stores.blobs, "put", undone_before)
    _, job = await drawn(room, seed=HELD, num_images=1)
    (image,) = job.result.images
    assert (image.name, image.moderation.state) == (FOLDER + name_of(HELD), "in_review")
    assert not await room.stores.blobs.exists(name_of(HELD))
    assert [review.name for review in (await reviews.page(9))[0]] == [name_of(HELD)]


async def test_there_are_no_previews_under_a_policy(room: Room) -> None:
    message = await room.submit("slow=0.1 a", num_inference_steps=4, previews=3)
    async with watching(room.stores.events, message.job_id) as events:
        assert await room.run(message) == [Delivered.ACK]
        seen = []
        async with asyncio.timeout(10):
            async for event in events:
                seen.append(event)
                if event.terminal:
                    break
    assert not [event for event in seen if isinstance(event, Preview)]


async def test_a_layer_that_cannot_look_holds_the_image(room: Room, tmp_path: Path) -> None:
    """The list of held images is replaced by one that fails; `when_away` is `closed` by default."""
    verdicts = room.runner._pictures._verdicts
    assert verdicts is not None
    judge = verdicts._live.now.compiled
    assert isinstance(judge, LayeredJudge)

    class Broken:
        def look(self, _: object) -> tuple[Finding, ...]:
            raise OSError("the list is gone")

    judge._layers = {"hashes": (Broken(),)}
    _, job = await drawn(room, seed=SHOWN)
    image = job.result.images[0]
    assert (image.moderation.state, image.moderation.away) == ("in_review", ("hashes",))
    assert image.name.startswith(FOLDER)


async def test_a_policy_that_cannot_be_used_stops_the_worker(room: Room, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: house\nversion: one\n")
    with pytest.raises(SettingsError, match=r"DARKROOM_MODERATION: .*version"):
        check_policy(WorkerSettings(moderation=bad))

"""A worker whose image people have released, plain and signed, and who take the release back."""

from __future__ import annotations

import asyncio

import pytest

from backends.blobs import HELD as FOLDER
from contracts.reviews import PastDecision, ReviewState
from moderation.carrying import Carrying
from moderation.reviewing import Person, Reviewing
from runtime.clock import SystemClock
from tests.worker.conftest import Room
from tests.worker.policies import HELD, name_of
from worker.deliveries import Verdict as Delivered

RELEASED = PastDecision(state=ReviewState.RELEASED, decision_id="d1", at=1.0)
UNDONE = PastDecision(state=ReviewState.WAITING, decision_id="d2", at=2.0)
"""What is kept of a release that was taken back."""

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.parametrize(
        "room", [{"policy": True}, {"policy": True, "sign": True}], indirect=True, ids=["plain", "signed"]
    ),
]


async def test_a_worker_that_dies_after_it_stored_what_was_taken_back_leaves_no_public_file(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies between the file and its second look at the release."""
    reviews, put = room.stores.reviews, room.stores.blobs.put
    await reviews.remember(name_of(HELD), RELEASED)
    public = []

    async def undone_before(data: bytes, extension: str, **place: bool) -> str:
        await reviews.remember(name_of(HELD), UNDONE)
        public.append(await put(data, extension, **place))
        raise asyncio.CancelledError

    monkeypatch.setattr(room.stores.blobs, "put", undone_before)
    message = await room.submit("a", seed=HELD)
    run = asyncio.create_task(room.run(message))
    async with asyncio.timeout(30):
        while not public:
            await asyncio.sleep(0.01)
    run.cancel()
    await asyncio.wait({run})
    (name,) = public
    assert await room.stores.blobs.exists(name), "nobody has looked yet"
    await Carrying(room.stores, room.stores.moderation_log, SystemClock(), 3600.0).tick()
    assert not await room.stores.blobs.exists(name)


async def test_a_released_image_is_published_and_leaves_no_note(room: Room) -> None:
    await room.stores.reviews.remember(name_of(HELD), RELEASED)
    message = await room.submit("a", seed=HELD)
    assert await room.run(message) == [Delivered.ACK]
    result = (await room.job(message)).result
    assert result is not None
    assert await room.stores.blobs.exists(result.images[0].name)
    assert await room.stores.publications.unfinished() == []


async def test_a_job_that_is_drawn_after_a_release_hears_of_its_undo(room: Room) -> None:
    """Nobody has held its image, and the review of the first one has long been over."""
    stores = room.stores
    await stores.reviews.remember(name_of(HELD), RELEASED)
    message = await room.submit("a", seed=HELD)
    assert await room.run(message) == [Delivered.ACK]
    before = (await room.job(message)).result
    assert before is not None
    name = before.images[0].name
    (review,) = await stores.reviews.find(name)
    assert (review.state, [job.id for job in review.jobs]) == (ReviewState.RELEASED, [message.job_id])
    assert (await stores.reviews.page(9))[0] == [], "it waits for nobody"
    carrying = Carrying(stores, stores.moderation_log, SystemClock(), 3600.0)
    await carrying.tick()
    assert (await room.job(message)).result == before
    reviewing = Reviewing(stores.reviews, carrying, stores.moderation_log, SystemClock())
    await reviewing.undo(name, Person("dk_12345678"))
    after = (await room.job(message)).result
    assert after is not None
    (image,) = after.images
    assert (image.name, image.shown) == (FOLDER + name, False)
    assert not await stores.blobs.exists(name)
    assert await stores.blobs.exists(FOLDER + name), "people look again"
    assert [each.name for each in (await stores.reviews.page(9))[0]] == [name]
    await reviewing.decide(name, "release", Person("dk_12345678"))
    assert (await room.job(message)).result == before

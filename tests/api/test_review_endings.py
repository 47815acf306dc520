"""How reviews of held images end: files that are gone, files that several reviews need, and images that nobody decides on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backends.blobs import HELD
from contracts.models import WorkerInfo
from moderation.carrying import Carrying
from tests.api.conftest import ApiUnderTest, Opener
from tests.api.held import KEEP_S, decide, drawn, image_of, listed, moderator
from tests.store.test_others import spec

pytestmark = pytest.mark.anyio

LAPSES_S = KEEP_S * 15 / 16
"""When a review that nobody decides ends."""


def carrying_of(api: ApiUnderTest) -> Carrying:
    carrying: Carrying = api.http._transport.app.state.services.carrying  # type: ignore[attr-defined]
    return carrying


async def trail_of(api: ApiUnderTest, headers: dict[str, str]) -> list[dict[str, Any]]:
    entries = (await api.http.get("/v1/admin/moderation/log", headers=headers)).json()["data"]
    return [entry["what"] for entry in entries]


async def of_one_image(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch, apart_s: float = 0.0
) -> tuple[str, str]:
    """The ids of two jobs with the same held image, whose reviews lie in different shards. The second is younger."""
    monkeypatch.setattr("tests.api.held.file_of", lambda message, index: b"\x89PNG\r\n\x1a\n" + bytes(64))
    first = await api.submit()
    await drawn(api)
    api.clock.advance(apart_s)
    await api.stores.models.announce(
        spec("m"), WorkerInfo(id="w-m", model="m", started_at=1.0, steps_per_s=10.0)
    )
    late = first
    while late["id"][-1] == first["id"][-1]:
        late = await api.submit(prompt=f"another apple, {late['id']}")
    await drawn(api)
    return first["id"], late["id"]


async def test_an_image_without_a_file_is_not_released(api: ApiUnderTest) -> None:
    job = await api.submit()
    await drawn(api)
    headers = await moderator(api)
    (review,) = await listed(api, headers)
    await api.stores.blobs.delete(HELD + review["name"], float("inf"))
    answer = await decide(api, review["name"], "release", headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "held_image_gone")
    image = await image_of(api, job["id"])
    assert (image["url"], image["moderation"]["verdict"]) == (None, "in_review")
    assert (await decide(api, review["name"], "refuse", headers)).status_code == 200


async def test_a_release_whose_file_goes_meanwhile_shows_no_address(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await api.submit()
    await drawn(api)
    headers = await moderator(api)
    (review,) = await listed(api, headers)
    change = api.stores.reviews.change

    async def deleted_first(*arguments: Any) -> bool:
        monkeypatch.setattr(api.stores.reviews, "change", change)
        await api.stores.blobs.delete(HELD + review["name"], float("inf"))
        return await change(*arguments)

    monkeypatch.setattr(api.stores.reviews, "change", deleted_first)
    answer = (await decide(api, review["name"], "release", headers)).json()
    assert (answer["state"], answer["decision"]["note"]) == ("refused", "The file of the image is gone.")
    image = await image_of(api, job["id"])
    assert (image["url"], image["moderation"]["verdict"]) == (None, "refused")
    assert await api.stores.reviews.due(10) == []
    assert await api.stores.reviews.past([review["name"]]) == {}, "it may be drawn and judged again"
    assert [what["action"] for what in await trail_of(api, headers)] == ["release", "lapse"]


async def test_an_image_that_nobody_decides_is_refused_before_its_retention_ends(api: ApiUnderTest) -> None:
    job = await api.submit()
    await drawn(api)
    headers = await moderator(api)
    (review,) = await listed(api, headers)
    carrying = carrying_of(api)
    api.clock.advance(LAPSES_S - 10)
    await carrying.tick()
    assert (await image_of(api, job["id"]))["moderation"]["verdict"] == "in_review"
    api.clock.advance(20)
    for _ in range(2):
        await carrying.tick()
    image = await image_of(api, job["id"])
    assert (image["url"], image["moderation"]["verdict"]) == (None, "refused")
    assert not await api.stores.blobs.exists(HELD + review["name"])
    assert await listed(api, headers) == []
    (decided,) = await listed(api, headers, state="decided")
    assert decided["decision"]["note"] == "Nobody decided while the image was kept."
    assert await api.stores.reviews.past([review["name"]]) == {}
    assert [what["action"] for what in await trail_of(api, headers)] == ["lapse"]
    late = await decide(api, review["name"], "release", headers)
    assert (late.status_code, late.json()["error"]["code"]) == (409, "review_decided")
    assert await api.stores.reviews.discards(10) == []


async def test_an_open_review_waits_as_long_as_the_youngest_job_with_its_image(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, late = await of_one_image(api, monkeypatch, 1000)
    carrying = carrying_of(api)
    api.clock.advance(LAPSES_S - 990)
    for _ in range(2):
        await carrying.tick()
    for job_id in (first, late):
        assert (await image_of(api, job_id))["moderation"]["verdict"] == "in_review"
    (name,) = {review["name"] for review in await listed(api, await moderator(api))}
    assert await api.stores.blobs.exists(HELD + name)
    api.clock.advance(1000)
    for _ in range(3):
        await carrying.tick()
    for job_id in (first, late):
        assert (await image_of(api, job_id))["moderation"]["verdict"] == "refused"
    assert not await api.stores.blobs.exists(HELD + name)
    assert await api.stores.reviews.discards(10) == []


async def test_a_file_stays_while_another_review_of_its_image_needs_it(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal is taken back, but the process that does it dies before the second review hears of it."""
    first, late = await of_one_image(api, monkeypatch)
    headers = await moderator(api)
    name = (await listed(api, headers))[0]["name"]
    await decide(api, name, "refuse", headers)
    reviews = api.stores.reviews
    with monkeypatch.context() as dead:
        dead.setattr(api.stores.moderation_log, "append", _dies_at_undo(api.stores.moderation_log.append))
        with pytest.raises(asyncio.CancelledError):
            await decide(api, name, "undo", headers)
    assert sorted(review.state for review in await reviews.find(name)) == ["refused", "waiting"]
    api.clock.advance(3601)
    endings = carrying_of(api)
    # The duty to delete comes before that to carry the undo out.
    monkeypatch.setattr(reviews, "due", _nothing)
    for _ in range(3):
        await endings.tick()
    assert await api.stores.blobs.exists(HELD + name)
    for job_id in (first, late):
        assert (await image_of(api, job_id))["moderation"]["verdict"] == "in_review"
    assert (await decide(api, name, "release", headers)).json()["state"] == "released"
    for job_id in (first, late):
        assert (await api.http.get((await image_of(api, job_id))["url"])).status_code == 200


def _dies_at_undo(append: Any) -> Any:
    async def appended(id_: str, at: float, what: dict[str, Any]) -> None:
        if what["action"] == "undo":
            raise asyncio.CancelledError
        await append(id_, at, what)

    return appended


async def _nothing(_: int) -> list[str]:
    return []


@pytest.mark.parametrize("step", ["append", "remember", "put"])
async def test_no_public_file_is_left_when_a_process_dies_after_its_release_was_undone(
    api: ApiUnderTest, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release is undone and carried out whole, while the process that releases is at one of its steps. That process goes
    on, stores the file, and dies before it looks again."""
    job = await api.submit()
    await drawn(api)
    headers = await moderator(api)
    (review,) = await listed(api, headers)
    stores = api.stores
    owner = {"append": stores.moderation_log, "put": stores.blobs}.get(step, stores.reviews)
    real, put = getattr(owner, step), stores.blobs.put

    async def stored_and_dead(*arguments: Any, **place: Any) -> None:
        await put(*arguments, **place)
        raise asyncio.CancelledError

    async def overtaken(*arguments: Any, **rest: Any) -> Any:
        monkeypatch.setattr(owner, step, real)
        assert (await decide(api, review["name"], "undo", headers)).status_code == 200
        monkeypatch.setattr(stores.blobs, "put", stored_and_dead)
        return await (stored_and_dead if step == "put" else real)(*arguments, **rest)

    monkeypatch.setattr(owner, step, overtaken)
    with pytest.raises(asyncio.CancelledError):
        await decide(api, review["name"], "release", headers)
    monkeypatch.setattr(stores.blobs, "put", put)
    await carrying_of(api).tick()
    assert not await stores.blobs.exists(review["name"])
    assert (await api.http.get(f"/v1/images/{review['name']}")).status_code == 404
    assert await stores.reviews.past([review["name"]]) == {}
    image = await image_of(api, job["id"])
    assert (image["url"], image["moderation"]["verdict"]) == (None, "in_review")


async def test_a_vote_forgets_no_undo_that_is_still_to_be_carried_out(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that undoes dies at once. Then one of two reviewers votes, which decides nothing."""
    api = await opened(reviewers=2)
    await api.submit()
    await drawn(api)
    ada, bob = await moderator(api, "Ada"), await moderator(api, "Bob")
    (review,) = await listed(api, ada)
    for person in (ada, bob):
        await decide(api, review["name"], "release", person)
    assert await api.stores.blobs.exists(review["name"])
    with monkeypatch.context() as dead:
        dead.setattr(api.stores.moderation_log, "append", _dies_at_undo(api.stores.moderation_log.append))
        with pytest.raises(asyncio.CancelledError):
            await decide(api, review["name"], "undo", ada)
    assert (await decide(api, review["name"], "release", bob)).json()["state"] == "waiting"
    await carrying_of(api).tick()
    assert not await api.stores.blobs.exists(review["name"])


async def test_a_release_leaves_no_note_behind(api: ApiUnderTest) -> None:
    await api.submit()
    await drawn(api)
    headers = await moderator(api)
    (review,) = await listed(api, headers)
    await decide(api, review["name"], "release", headers)
    assert await api.stores.publications.unfinished() == []
    await carrying_of(api).tick()
    assert await api.stores.blobs.exists(review["name"])

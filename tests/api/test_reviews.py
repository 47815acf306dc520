"""Held images in the hands of reviewers: listed, opened, decided, undone, appealed, and in the audit trail."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

import pytest

from backends.blobs import HELD, blob_name
from contracts.moderation import Finding
from contracts.reviews import ReviewState, SecondLook
from moderation.withdrawing import Withdrawal
from store.moderation_log import LogEntry, fault_of
from tests.api.conftest import ApiUnderTest, Opener
from tests.api.held import KEEP_S, REVIEWS, decide, drawn, file_of, image_of, listed, moderator
from tests.store.held import verdict as held_verdict

pytestmark = pytest.mark.anyio

KEY = "a key that signs"


@pytest.fixture
async def desk(opened: Opener) -> ApiUnderTest:
    return await opened(moderation_log_key=KEY)


async def test_the_routes_are_for_keys_with_the_scope_moderate(desk: ApiUnderTest) -> None:
    await desk.submit()
    await drawn(desk)
    headers = await moderator(desk)
    (review,) = await listed(desk, headers)
    paths = [
        ("GET", REVIEWS),
        ("GET", f"{REVIEWS}/{review['name']}"),
        ("GET", review["picture"]),
        ("POST", f"{REVIEWS}/{review['name']}/release"),
        ("POST", f"{REVIEWS}/{review['name']}/refuse"),
        ("POST", f"{REVIEWS}/{review['name']}/undo"),
        ("GET", "/v1/admin/moderation/log"),
    ]
    owner = (
        await desk.http.post("/v1/keys", json={"tenant": "acme"}, headers={"X-API-Key": "dk_" + "A" * 43})
    ).json()
    for method, path in paths:
        for given, status in (({}, 401), ({"X-API-Key": owner["key"]}, 403)):
            assert (await desk.http.request(method, path, headers=given)).status_code == status, path
    assert (await desk.http.post("/v1/jobs", json={"prompt": "x"}, headers=headers)).status_code == 403


async def test_a_held_image_is_listed_and_read_by_reviewers(desk: ApiUnderTest) -> None:
    job = await desk.submit(prompt="a sword")
    await drawn(desk, "passed", "in_review")
    headers = await moderator(desk)
    response = await desk.http.get(REVIEWS, headers=headers)
    assert response.headers["cache-control"] == "no-store"
    answer = response.json()
    assert (answer["waiting"], answer["reviewers"], answer["next_cursor"]) == (1, 1, None)
    (review,) = answer["data"]
    assert (review["prompt"], review["categories"], review["score"]) == ("a sword", ["weapons"], 0.6)
    assert (review["state"], review["severity"], review["tenants"]) == ("waiting", 2, ["public"])
    detail = (await desk.http.get(f"{REVIEWS}/{review['name']}", headers=headers)).json()
    assert detail["findings"] == [
        {"layer": "pictures", "category": "weapons", "score": 0.6, "source": "head@1"}
    ]
    assert detail["jobs"] == [{"id": job["id"], "tenant": "public", "indexes": [1]}]
    picture = await desk.http.get(review["picture"], headers=headers)
    assert picture.content == file_of(desk.publisher.published[-1], 1)
    assert (picture.headers["cache-control"], picture.headers["content-type"]) == ("no-store", "image/png")
    unknown = await desk.http.get(f"{REVIEWS}/{'0' * 64}.png", headers=headers)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "review_not_found")


async def test_filters_and_pages(desk: ApiUnderTest) -> None:
    for seed in range(5):
        await desk.submit(seed=seed)
        await drawn(desk)
    headers = await moderator(desk)
    names, after = [], None
    while True:
        query = {"limit": 2, **({"after": after} if after else {})}
        page = (await desk.http.get(REVIEWS, params=query, headers=headers)).json()
        names += [review["name"] for review in page["data"]]
        after = page["next_cursor"]
        if after is None:
            break
    assert len(names) == len(set(names)) == 5
    assert len(await listed(desk, headers, category="weapons", tenant="public", min_severity=2)) == 5
    for none in ({"category": "hate"}, {"tenant": "acme"}, {"min_severity": 3}, {"state": "decided"}):
        assert await listed(desk, headers, **none) == []
    assert (await desk.http.get(REVIEWS, params={"after": "x"}, headers=headers)).status_code == 422


async def test_a_release_shows_the_image_to_its_owner(desk: ApiUnderTest) -> None:
    job = await desk.submit()
    await drawn(desk)
    held = await image_of(desk, job["id"])
    assert held["url"] is None
    assert held["moderation"] == {"verdict": "in_review", "categories": ["weapons"], "policy": "house@3"}
    headers = await moderator(desk)
    (review,) = await listed(desk, headers)
    assert (await desk.http.get(f"/v1/images/{review['name']}")).status_code == 404
    answer = await decide(desk, review["name"], "release", headers, "a toy")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["state"], answer.json()["decision"]["note"]) == ("released", "a toy")
    shown = await image_of(desk, job["id"])
    assert shown["moderation"]["verdict"] == "released"
    assert (await desk.http.get(shown["url"])).content == file_of(desk.publisher.published[-1], 0)
    assert await listed(desk, headers) == []
    (decided,) = await listed(desk, headers, state="decided")
    assert decided["name"] == review["name"]
    past = await desk.stores.reviews.past([review["name"]])
    assert past[review["name"]].state is ReviewState.RELEASED
    # The same again does no harm. The opposite is told.
    again = await decide(desk, review["name"], "release", headers)
    assert again.json()["decision"] == answer.json()["decision"]
    other = await decide(desk, review["name"], "refuse", await moderator(desk, "Bob"))
    assert (other.status_code, other.json()["error"]["code"]) == (409, "review_decided")
    assert "Ada" in other.json()["error"]["message"]


async def test_a_refusal_is_told_and_its_file_is_deleted_once_it_cannot_be_undone(desk: ApiUnderTest) -> None:
    job = await desk.submit()
    await drawn(desk)
    headers = await moderator(desk)
    (review,) = await listed(desk, headers)
    answer = await decide(desk, review["name"], "refuse", headers)
    assert (answer.status_code, answer.json()["state"], answer.json()["undoable"]) == (200, "refused", True)
    image = await image_of(desk, job["id"])
    assert (image["url"], image["moderation"]["verdict"]) == (None, "refused")
    carrying = desk.http._transport.app.state.services.carrying  # type: ignore[attr-defined]
    await carrying.tick()
    assert await desk.stores.blobs.exists(HELD + review["name"])
    desk.clock.advance(3601)
    for _ in range(2):
        await carrying.tick()
    assert not await desk.stores.blobs.exists(HELD + review["name"])
    gone = await decide(desk, review["name"], "undo", headers)
    assert (gone.status_code, gone.json()["error"]["code"]) == (409, "review_decided")
    assert (await desk.http.get(review["picture"], headers=headers)).status_code == 404


async def test_a_decision_can_be_undone(desk: ApiUnderTest) -> None:
    job = await desk.submit()
    await drawn(desk)
    headers = await moderator(desk)
    (review,) = await listed(desk, headers)
    assert (await decide(desk, review["name"], "undo", headers)).status_code == 409
    for action, verdict in (("release", "released"), ("refuse", "refused")):
        assert (await decide(desk, review["name"], action, headers)).status_code == 200
        image = await image_of(desk, job["id"])
        assert image["moderation"]["verdict"] == verdict
        undone = await decide(desk, review["name"], "undo", headers, "too fast")
        assert (undone.status_code, undone.json()["state"]) == (200, "waiting")
        image = await image_of(desk, job["id"])
        assert (image["url"], image["moderation"]["verdict"]) == (None, "in_review")
        assert (await desk.http.get(f"/v1/images/{review['name']}")).status_code == 404
        assert await desk.stores.reviews.past([review["name"]]) == {}
        assert [each["name"] for each in await listed(desk, headers)] == [review["name"]]


async def test_of_two_reviewers_at_once_one_wins_and_the_other_is_told(desk: ApiUnderTest) -> None:
    for seed in range(6):
        job = await desk.submit(seed=seed)
        await drawn(desk)
        ada, bob = await moderator(desk, "Ada"), await moderator(desk, "Bob")
        (review,) = await listed(desk, ada)
        answers = await asyncio.gather(
            decide(desk, review["name"], "release", ada), decide(desk, review["name"], "refuse", bob)
        )
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        state = next(answer for answer in answers if answer.status_code == 200).json()["state"]
        image = await image_of(desk, job["id"])
        assert image["moderation"]["verdict"] == state
        assert (image["url"] is None) == (state == "refused")


async def test_two_people_must_agree_where_the_setting_says_so(opened: Opener) -> None:
    api = await opened(reviewers=2)
    job = await api.submit()
    await drawn(api)
    ada, bob, eve = [await moderator(api, name) for name in ("Ada", "Bob", "Eve")]
    (review,) = await listed(api, ada)
    for _ in range(2):  # one person twice is one person
        answer = await decide(api, review["name"], "release", ada)
        assert (answer.json()["state"], len(answer.json()["votes"])) == ("waiting", 1)
    assert (await decide(api, review["name"], "refuse", bob)).json()["state"] == "waiting"
    assert (await image_of(api, job["id"]))["url"] is None
    assert (await decide(api, review["name"], "release", eve)).json()["state"] == "released"
    assert (await image_of(api, job["id"]))["url"] is not None


async def test_the_trail_is_a_signed_chain(desk: ApiUnderTest) -> None:
    headers = await moderator(desk)
    for seed, action in enumerate(("release", "refuse", "release")):
        await desk.submit(seed=seed)
        await drawn(desk)
        (review,) = await listed(desk, headers)
        await decide(desk, review["name"], action, headers, f"note {seed}")
    answer = (await desk.http.get("/v1/admin/moderation/log", headers=headers)).json()
    assert answer["fault"] is None
    assert [entry["what"]["action"] for entry in answer["data"]] == ["release", "refuse", "release"]
    key_id = headers["X-API-Key"][:11]
    for entry in answer["data"]:
        assert set(entry["what"]) == {"action", "image", "by", "votes", "policy", "categories"}
        assert entry["what"]["by"] == key_id
        assert [set(vote) for vote in entry["what"]["votes"]] == [{"choice", "by", "at"}]
    for told in ("note 0", "Ada", "a red apple"):
        assert told not in json.dumps(answer), "what a person has said, or is called, is not kept for ever"
    later = (await desk.http.get("/v1/admin/moderation/log", params={"first": 1}, headers=headers)).json()
    assert (len(later["data"]), later["fault"]) == (2, None)
    assert "public" not in json.dumps(answer), "the trail names no tenant"
    entries = [LogEntry.model_validate(entry) for entry in answer["data"]]
    assert fault_of(entries, KEY) is None
    assert fault_of(entries, "another key") == "entry 0 is not signed by this key"
    assert fault_of([entries[0], entries[2]], KEY) == "entry 1 is missing: entry 2 is in its place"
    forged = entries[1].model_copy(update={"what": {**entries[1].what, "action": "release"}})
    assert fault_of([entries[0], forged, entries[2]], KEY) == "entry 1 was changed"


async def test_an_appeal_comes_first_and_a_refused_image_waits_again(desk: ApiUnderTest) -> None:
    headers = await moderator(desk)
    first = await desk.submit(seed=1)
    await drawn(desk)
    (refused,) = await listed(desk, headers)
    await decide(desk, refused["name"], "refuse", headers)
    await desk.submit(seed=2)
    await drawn(desk)
    path = f"/v1/jobs/{first['id']}/images/0/appeal"
    for _ in range(2):
        answer = await desk.http.post(path, json={"reason": "It is a kitchen knife."})
        assert (answer.status_code, answer.json()["verdict"]) == (202, "in_review"), answer.text
    image = await image_of(desk, first["id"])
    assert (image["url"], image["moderation"]["verdict"]) == (None, "in_review")
    queue = await listed(desk, headers)
    assert (queue[0]["name"], queue[0]["severity"]) == (refused["name"], 4)
    assert queue[0]["appeal"]["reason"] == "It is a kitchen knife."
    await decide(desk, refused["name"], "refuse", headers)
    again = await desk.http.post(path, json={"reason": "Look again."})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "nothing_to_appeal")


async def test_only_its_owner_appeals_and_not_without_end(opened: Opener) -> None:
    api = await opened(appeals_per_day=2, allow_anonymous=False)
    admin = {"X-API-Key": "dk_" + "A" * 43}
    mine, theirs = [
        {"X-API-Key": (await api.http.post("/v1/keys", json={"tenant": tenant}, headers=admin)).json()["key"]}
        for tenant in ("acme", "other")
    ]
    jobs, names = [], []
    for seed in range(3):
        answer = await api.http.post("/v1/jobs", json={"prompt": "a", "seed": seed}, headers=mine)
        await drawn(api)
        jobs.append(answer.json()["id"])
    names = [review["name"] for review in await listed(api, await moderator(api))]
    reason = {"reason": "no"}

    async def appealed(path: str, headers: dict[str, str], body: Any = reason) -> tuple[int, str]:
        response = await api.http.post(path, json=body, headers=headers)
        return response.status_code, response.json().get("error", {}).get("code", "")

    assert await appealed(f"/v1/jobs/{jobs[0]}/images/0/appeal", theirs) == (404, "job_not_found")
    absent = await api.http.post(f"/v1/images/{'0' * 64}.png/appeal", json=reason, headers=theirs)
    foreign = await api.http.post(f"/v1/images/{names[0]}/appeal", json=reason, headers=theirs)
    assert (absent.status_code, len(absent.content)) == (foreign.status_code, len(foreign.content))
    assert foreign.status_code == 404, "nobody learns that an image is held"
    assert await appealed(f"/v1/jobs/{jobs[0]}/images/7/appeal", mine) == (404, "image_not_found")
    assert await appealed(f"/v1/jobs/{jobs[0]}/images/0/appeal", mine, {"reason": ""}) == (
        422,
        "invalid_request",
    )
    assert await appealed(f"/v1/images/{names[0]}/appeal", mine) == (202, "")
    assert await appealed(f"/v1/jobs/{jobs[1]}/images/0/appeal", mine) == (202, "")
    assert await appealed(f"/v1/jobs/{jobs[2]}/images/0/appeal", mine) == (429, "quota_exceeded")


async def test_a_blocked_or_shown_image_has_nothing_to_appeal(desk: ApiUnderTest) -> None:
    job = await desk.submit()
    await drawn(desk, "blocked", "passed")
    for index in (0, 1):
        answer = await desk.http.post(f"/v1/jobs/{job['id']}/images/{index}/appeal", json={"reason": "no"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "nothing_to_appeal")


async def test_a_reviewer_opens_so_many_images_a_day(opened: Opener) -> None:
    api = await opened(review_pictures_per_day=2)
    for seed in range(3):
        await api.submit(seed=seed)
        await drawn(api)
    headers = await moderator(api)
    pictures = [review["picture"] for review in await listed(api, headers)]
    statuses = [
        (await api.http.get(path, headers=headers)).status_code
        for path in (pictures[0], *pictures, pictures[0])
    ]
    assert statuses == [200, 200, 200, 429, 200], "one that is opened again counts once"
    other = await moderator(api, "Bob")
    assert (await api.http.get(pictures[2], headers=other)).status_code == 200


async def test_like_cases_come_with_a_review(desk: ApiUnderTest) -> None:
    vectors = ((1.0, 0.0), (0.9, 0.43589), (0.0, 1.0))
    for seed, vector in enumerate(vectors):
        await desk.submit(seed=seed)
        await drawn(desk, embedding=struct.pack("<2e", *vector))
    headers = await moderator(desk)
    names = [review["name"] for review in await listed(desk, headers)]
    detail = (await desk.http.get(f"{REVIEWS}/{names[0]}", headers=headers)).json()
    assert [case["name"] for case in detail["like"]] == [names[1]]
    assert detail["like"][0]["similarity"] == pytest.approx(0.9, abs=0.01)


async def test_a_revoked_key_decides_nothing(desk: ApiUnderTest) -> None:
    job = await desk.submit()
    await drawn(desk)
    headers = await moderator(desk)
    (review,) = await listed(desk, headers)
    key_id = headers["X-API-Key"][:11]
    await desk.http.delete(f"/v1/keys/{key_id}", headers={"X-API-Key": "dk_" + "A" * 43})
    desk.clock.advance(2.0)
    assert (await decide(desk, review["name"], "release", headers)).status_code == 401
    assert (await image_of(desk, job["id"]))["url"] is None


async def test_what_a_model_said_is_for_reviewers_alone(desk: ApiUnderTest) -> None:
    job = await desk.submit(prompt="a sword")
    await drawn(desk)
    headers = await moderator(desk)
    (review,) = await listed(desk, headers)
    assert review["second_look"] is None
    (stored,) = await desk.stores.reviews.find(review["name"])
    look = SecondLook(
        outcome="refuse",
        model="look-7b",
        policy="house@3",
        reason="a sword is drawn",
        findings=(Finding(layer="second_look", category="weapons", score=0.9, source="look-7b"),),
        at=1.0,
    )
    assert await desk.stores.looks.note(stored.id, look) == look
    expected = {
        "outcome": "refuse",
        "model": "look-7b",
        "policy": "house@3",
        "reason": "a sword is drawn",
        "findings": [{"layer": "second_look", "category": "weapons", "score": 0.9, "source": "look-7b"}],
        "at": 1.0,
    }
    (review,) = await listed(desk, headers)
    detail = (await desk.http.get(f"{REVIEWS}/{review['name']}", headers=headers)).json()
    assert review["second_look"] == detail["second_look"] == expected
    # A reviewer decides as before, and the advice stays.
    assert (await decide(desk, review["name"], "release", headers)).json()["second_look"] == expected
    owners = (await desk.http.get(f"/v1/jobs/{job['id']}")).text
    assert "look-7b" not in owners
    assert "is drawn" not in owners


async def test_what_a_scan_takes_away_is_reviewed_as_what_a_worker_holds(desk: ApiUnderTest) -> None:
    """An image of a job, and one that nothing names: of both the owner's address is gone, and a release brings it back."""
    submitted = await desk.submit(seed=7)
    job = await drawn(desk, None)
    name, headers = blob_name(file_of(desk.publisher.published[-1], 0), "png"), await moderator(desk)
    alone = await desk.stores.blobs.put(b"\x89PNG\r\n\x1a\n nothing names it", "png")
    assert (await desk.http.get(f"/v1/images/{name}")).status_code == 200
    withdrawal = Withdrawal(desk.stores, KEEP_S)
    assert await withdrawal.from_job(job, {name: held_verdict()})
    await withdrawal.file(alone, held_verdict())
    image = await image_of(desk, job.id)
    assert (image["url"], image["moderation"]["verdict"]) == (None, "in_review")
    assert {each["name"] for each in await listed(desk, headers)} == {name, alone}
    for each, jobs in ((name, [submitted["id"]]), (alone, [])):
        assert (await desk.http.get(f"/v1/images/{each}")).status_code == 404
        detail = (await desk.http.get(f"{REVIEWS}/{each}", headers=headers)).json()
        assert [one["id"] for one in detail["jobs"]] == jobs
        assert (await desk.http.get(detail["picture"], headers=headers)).status_code == 200
    again = await desk.http.post("/v1/jobs", json={"prompt": "a red apple", "seed": 7})
    assert again.headers["x-cache"] == "miss", "the cached result is not answered with any more"
    appeal = await desk.http.post(f"/v1/images/{name}/appeal", json={"reason": "an apple"})
    assert appeal.status_code in (200, 202), appeal.text
    for each in (name, alone):
        assert (await decide(desk, each, "release", headers)).status_code == 200
        assert (await desk.http.get(f"/v1/images/{each}")).status_code == 200
    assert (await image_of(desk, job.id))["moderation"]["verdict"] == "released"

"""A held image is shown by no route: each is asked while the image is held, under its public and its private name."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from backends.blobs import HELD
from contracts.jobs import Preview
from tests.api.conftest import ApiUnderTest, Opener
from tests.api.held import decide, drawn, file_of, image_of, listed, moderator

pytestmark = pytest.mark.anyio

POLICY = """
name: house
version: 3
rules: {weapons: {hashes: review}}
"""


@pytest.fixture
async def held(opened: Opener, tmp_path: Path) -> ApiUnderTest:
    """An API under a policy that holds nothing by itself: the worker of the test says what is held."""
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return await opened(moderation=path, job_ttl_s=2.0)


def secrets_of(api: ApiUnderTest) -> list[str]:
    """What must be in no answer while the first image of the newest job is held."""
    data = file_of(api.publisher.published[-1], 0)
    return [hashlib.sha256(data).hexdigest(), base64.b64encode(data).decode()[:40], "head@1", "0.6"]


def clean(text: str, secrets: list[str]) -> None:
    for secret in secrets:
        assert secret not in text


async def test_neither_job_nor_list_names_it(held: ApiUnderTest) -> None:
    job = await held.submit()
    await drawn(held)
    for path in (f"/v1/jobs/{job['id']}", "/v1/jobs"):
        answer = await held.http.get(path)
        clean(answer.text, secrets_of(held))
        (image,) = (answer.json().get("data") or [answer.json()])[0]["images"]
        assert image["url"] is None
        assert image["moderation"] == {
            "verdict": "in_review",
            "categories": ["weapons"],
            "policy": "house@3",
        }
    canceled = await held.http.post(f"/v1/jobs/{job['id']}/cancel")
    clean(canceled.text, secrets_of(held))


async def test_neither_does_a_request_that_waits_for_it(held: ApiUnderTest) -> None:
    waiting = asyncio.create_task(
        held.http.post("/v1/jobs", json={"prompt": "a"}, headers={"Prefer": "wait=10"})
    )
    while not held.publisher.published:
        await asyncio.sleep(0.01)
    job = await drawn(held)
    answer = await waiting
    assert (answer.status_code, answer.json()["id"]) == (200, job.id)
    assert answer.json()["images"][0]["url"] is None
    clean(answer.text, secrets_of(held))
    again = await held.http.get(f"/v1/jobs/{job.id}", headers={"Prefer": "wait=1"})
    clean(again.text, secrets_of(held))


async def test_its_address_answers_as_that_of_no_image(held: ApiUnderTest) -> None:
    """By any method, range or condition, under both names, in status, headers and size."""
    await held.submit()
    await drawn(held)
    (name,) = [each["name"] for each in await listed(held, await moderator(held))]
    etag = f'"{name.partition(".")[0]}"'

    async def asked(target: str) -> list[tuple[int, int, list[str]]]:
        answers = []
        for method in ("GET", "HEAD"):
            for headers in ({}, {"Range": "bytes=0-9"}, {"If-None-Match": etag}, {"If-None-Match": "*"}):
                answer = await held.http.request(method, target, headers=headers)
                size = len(answer.content) - len(target)
                answers.append((answer.status_code, size, sorted(answer.headers)))
        return answers

    absent = hashlib.sha256(b"never drawn").hexdigest() + ".png"
    assert await asked(f"/v1/images/{name}") == await asked(f"/v1/images/{absent}")
    for private in ("held/", "held%2F", "./held/", "inputs/../held/"):
        there, nowhere = [await asked(f"/v1/images/{private}{each}") for each in (name, absent)]
        assert there == nowhere
        assert {status for status, _, _ in there} <= {404, 405}


async def test_no_later_request_hits_or_lands_on_it(held: ApiUnderTest) -> None:
    first = await held.submit(seed=7)
    await drawn(held)
    again = await held.http.post("/v1/jobs", json={"prompt": "a red apple", "seed": 7})
    assert (again.status_code, again.headers["x-cache"]) == (202, "miss")
    assert again.json()["id"] != first["id"]
    await drawn(held)
    (review,) = await listed(held, await moderator(held))
    detail = await held.stores.reviews.find(review["name"])
    assert {job.id for job in detail[0].jobs} == {first["id"], again.json()["id"]}, "one review, two jobs"


async def test_joined_jobs_are_held_and_released_with_their_leader(held: ApiUnderTest) -> None:
    first, second = [await held.submit(seed=7) for _ in range(2)]
    assert second["cache"] == "joined"
    await drawn(held, message=held.publisher.published[0])
    for job in (first, second):
        image = await image_of(held, job["id"])
        assert (image["url"], image["moderation"]["verdict"]) == (None, "in_review")
    headers = await moderator(held)
    (review,) = await listed(held, headers)
    await decide(held, review["name"], "release", headers)
    for job in (first, second):
        image = await image_of(held, job["id"])
        assert image["url"] == f"/v1/images/{review['name']}"
        assert (await held.http.get(image["url"])).status_code == 200


async def test_its_events_name_it_once_it_is_released(held: ApiUnderTest) -> None:
    job = await held.submit()
    await drawn(held)
    plain = await held.http.get(f"/v1/jobs/{job['id']}/events")
    clean(plain.text, secrets_of(held))
    assert "event: output" in plain.text, "the stream ends with the job"
    headers = await moderator(held)
    (review,) = await listed(held, headers)
    stream = asyncio.create_task(held.http.get(f"/v1/jobs/{job['id']}/events", params={"until": "reviewed"}))
    streams = held.http._transport.app.state.services.streams  # type: ignore[attr-defined]
    while not streams.readings._watches:
        await asyncio.sleep(0.01)
    await decide(held, review["name"], "release", headers)
    text = (await stream).text
    before, _, after = text.partition("event: moderated\n")
    clean(before, secrets_of(held))
    moderated = json.loads(after.partition("data: ")[2].partition("\n")[0])
    assert moderated["images"][0]["url"] == f"/v1/images/{review['name']}"
    sequence = int(after.partition("id: ")[2].partition("\n")[0])
    resumed = await held.http.get(
        f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": str(sequence - 1)}
    )
    assert f"/v1/images/{review['name']}" in resumed.text, "a client that was away learns it too"
    over = await held.http.get(
        f"/v1/jobs/{job['id']}/events", params={"until": "reviewed"}, headers={"Last-Event-ID": str(sequence)}
    )
    assert over.status_code == 204


async def test_previews_are_off_and_said_to_be(held: ApiUnderTest) -> None:
    job = await held.submit(previews=2, num_inference_steps=4)
    assert any(warning.startswith("previews:") for warning in job["warnings"])
    assert held.publisher.published[-1].request.previews == 0
    claim = await held.stores.jobs.claim(held.publisher.published[-1], "w")
    # A worker of another version shows one all the same.
    name = await held.stores.blobs.put(b"preview", "png")
    stream = asyncio.create_task(held.http.get(f"/v1/jobs/{job['id']}/events"))
    streams = held.http._transport.app.state.services.streams  # type: ignore[attr-defined]
    while not streams.readings._watches:
        await asyncio.sleep(0.01)
    await held.stores.jobs.preview(claim.lease, Preview(index=0, name=name))  # type: ignore[union-attr]
    await held.stores.jobs.cancel("public", job["id"])
    assert name not in (await stream).text


@pytest.mark.parametrize("response_format", ["url", "b64_json"])
@pytest.mark.parametrize("stream", [False, True])
async def test_openais_client_waits_and_then_learns_that_it_is_under_review(
    held: ApiUnderTest, response_format: str, stream: bool
) -> None:
    body: dict[str, Any] = {"prompt": "a", "response_format": response_format}
    if stream:
        body |= {"stream": True, "response_format": None}
    waiting = asyncio.create_task(held.http.post("/v1/images/generations", json=body))
    while not held.publisher.published:
        await asyncio.sleep(0.01)
    job = await drawn(held)
    answer = await waiting
    clean(answer.text, secrets_of(held))
    assert "content_under_review" in answer.text
    assert job.id in answer.text
    if not stream:
        assert (answer.status_code, answer.json()["error"]["details"]) == (400, {"job_id": job.id})


async def test_openais_client_gets_what_is_released_while_it_waits(opened: Opener, tmp_path: Path) -> None:
    api = await opened(job_ttl_s=60.0)
    headers = await moderator(api)
    for action, status in (("release", 200), ("refuse", 400)):
        before = len(api.publisher.published)
        waiting = asyncio.create_task(
            api.http.post("/v1/images/generations", json={"prompt": action, "response_format": "b64_json"})
        )
        while len(api.publisher.published) == before:
            await asyncio.sleep(0.01)
        await drawn(api)
        (review,) = await listed(api, headers)
        await decide(api, review["name"], action, headers)
        answer = await waiting
        assert answer.status_code == status
        if status == 200:
            assert base64.b64decode(answer.json()["data"][0]["b64_json"]) == file_of(
                api.publisher.published[-1], 0
            )
        else:
            assert answer.json()["error"]["code"] == "content_policy_violation"


async def test_openais_client_gets_the_images_that_are_not_blocked(held: ApiUnderTest) -> None:
    waiting = asyncio.create_task(held.http.post("/v1/images/generations", json={"prompt": "a", "n": 2}))
    while not held.publisher.published:
        await asyncio.sleep(0.01)
    await drawn(held, "blocked", "passed")
    answer = await waiting
    assert (answer.status_code, len(answer.json()["data"])) == (200, 1)
    assert "1 of 2 images are withheld" in answer.headers["x-warnings"]


async def test_neither_metrics_nor_the_openapi_document_know_it(held: ApiUnderTest) -> None:
    await held.submit()
    await drawn(held)
    metrics = (await held.http.get("/metrics")).text
    clean(metrics, secrets_of(held)[:2])
    assert "darkroom_reviews_waiting 1.0" in metrics


async def test_a_cached_result_is_judged_again_by_a_new_version(held: ApiUnderTest, tmp_path: Path) -> None:
    await held.submit(seed=7)
    await drawn(held, "tagged")
    hit = await held.http.post("/v1/jobs", json={"prompt": "a red apple", "seed": 7})
    assert hit.headers["x-cache"] == "hit"
    assert hit.json()["images"][0]["moderation"]["verdict"] == "passed", "this version has no rule for it"
    (tmp_path / "policy.yaml").write_text(
        "name: house\nversion: 4\nrules: {weapons: {pictures: {review: 0.5}}}\n"
    )
    live = held.http._transport.app.state.services.prompts.live  # type: ignore[attr-defined]
    assert live.look()
    again = await held.http.post("/v1/jobs", json={"prompt": "a red apple", "seed": 7})
    assert (again.status_code, again.headers["x-cache"]) == (202, "miss"), (
        "it is drawn again, and will be held"
    )
    await drawn(held)
    assert (await image_of(held, again.json()["id"]))["url"] is None


async def test_without_a_policy_answers_are_as_ever(opened: Opener) -> None:
    api = await opened()
    job = await api.submit()
    await drawn(api, None)
    (image,) = (await api.http.get(f"/v1/jobs/{job['id']}")).json()["images"]
    assert set(image) == {"url", "width", "height", "seed", "content_type"}
    assert image["url"].startswith("/v1/images/")
    assert HELD not in image["url"]

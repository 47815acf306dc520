"""Submit, wait, read, list, cancel: the wire contract."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contracts.ids import is_job_id, new_job_id
from contracts.jobs import JobFailure
from contracts.transitions import Granted
from tests.api.conftest import ApiUnderTest, Opener

pytestmark = pytest.mark.anyio


async def test_a_job_is_accepted_published_and_readable(api: ApiUnderTest) -> None:
    response = await api.http.post("/v1/jobs", json={"prompt": " A red APPLE ", "seed": 7})
    job = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/jobs/{job['id']}" == job["urls"]["self"]
    assert int(response.headers["retry-after"]) >= 1
    assert is_job_id(job["id"])
    assert (job["status"], job["cache"], job["queue_position"]) == ("queued", "miss", 0)
    assert job["request"] == {
        "model": "m",
        "prompt": " A red APPLE ",
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "num_inference_steps": 1,
        "guidance_scale": 0.0,
        "seed": 7,
        "num_images": 1,
        "output_format": "png",
        "output_quality": 90,
        "lossless": False,
        "embed_metadata": False,
        "metadata": {},
        "cache": "use",
        "model_revision": "1",
        "lora": None,
        "init_image": None,
        "strength": None,
    }
    (message,) = api.publisher.published
    assert message.job_id == job["id"]
    assert (await api.http.get(job["urls"]["self"])).json() == job
    assert await api.stores.jobs.sweep(job["id"][-1], 10) == ((), ()), "confirmed: not in the outbox"


async def test_a_finished_job_has_its_picture(api: ApiUnderTest) -> None:
    job = await api.submit(seed=7)
    await api.work()
    done = (await api.http.get(job["urls"]["self"])).json()
    assert done["status"] == "succeeded"
    assert done["timings"] == {"queued_ms": 1, "batch_ms": 2, "encode_ms": 3, "batch_size": 4}
    assert done["warnings"] == ["cut"]
    (image,) = done["images"]
    assert (image["seed"], image["content_type"]) == (7, "image/png")
    assert (await api.http.get(image["url"])).status_code == 200


async def test_a_repeat_is_answered_from_the_cache(api: ApiUnderTest) -> None:
    await api.submit()
    await api.work()
    response = await api.http.post("/v1/jobs", json={"prompt": "A  red apple"})
    assert response.status_code == 200
    again = response.json()
    assert (again["status"], again["cache"], again["timings"]) == ("succeeded", "hit", None)
    assert len(api.publisher.published) == 1


async def test_a_repeat_whose_picture_is_gone_is_computed_again(opened: Opener) -> None:
    api = await opened(worker_ttl_s=60)
    await api.submit()
    done = await api.work()
    api.clock.advance(11)
    assert done.result is not None
    assert await api.stores.blobs.prune(0.0, 0) == len(done.result.images)
    assert (await api.submit())["cache"] == "miss"
    assert len(api.publisher.published) == 2


async def test_equal_requests_in_flight_are_joined(api: ApiUnderTest) -> None:
    first, second = await api.submit(), await api.submit()
    assert (first["cache"], second["cache"]) == ("miss", "joined")
    assert len(api.publisher.published) == 1
    await api.work()
    assert (await api.http.get(second["urls"]["self"])).json()["status"] == "succeeded"


async def test_a_random_seed_is_never_shared(api: ApiUnderTest) -> None:
    jobs = [await api.submit(seed="random") for _ in range(5)]
    assert len({job["request"]["seed"] for job in jobs}) == 5
    assert len(api.publisher.published) == 5


async def test_a_derived_seed_is_the_same_for_the_same_request(api: ApiUnderTest) -> None:
    seeds = [(await api.submit(prompt=prompt))["request"]["seed"] for prompt in ("a cat", "A CAT ", "a dog")]
    assert seeds[0] == seeds[1] != seeds[2]


@pytest.mark.parametrize("prefer", ["wait=10", "respond-async, wait=10", 'wait="10"'])
async def test_a_held_submit_answers_with_the_picture(api: ApiUnderTest, prefer: str) -> None:
    asking = asyncio.create_task(
        api.http.post("/v1/jobs", json={"prompt": "a red apple"}, headers={"Prefer": prefer})
    )
    while not api.publisher.published:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    await api.work()
    async with asyncio.timeout(5):
        response = await asking
    assert response.status_code == 200
    assert response.headers["preference-applied"] == "wait=10"
    assert response.json()["status"] == "succeeded"


async def test_a_wait_that_is_over_answers_the_job_as_it_stands(api: ApiUnderTest) -> None:
    job = await api.submit()
    response = await api.http.get(job["urls"]["self"], headers={"Prefer": "wait=1"})
    assert response.status_code == 200
    assert response.json()["status"] == "queued"
    assert response.headers["preference-applied"] == "wait=1"


@pytest.mark.parametrize("prefer", ["wait=x", "wait=-1", "wait", "wait=0", "return=minimal"])
async def test_a_preference_that_is_not_understood_is_ignored(api: ApiUnderTest, prefer: str) -> None:
    response = await api.http.post("/v1/jobs", json={"prompt": "a"}, headers={"Prefer": prefer})
    assert response.status_code == 202
    assert "preference-applied" not in response.headers


async def test_a_failed_job_tells_why(api: ApiUnderTest) -> None:
    job = await api.submit()
    claim = await api.stores.jobs.claim(api.publisher.published[-1], "w")
    assert isinstance(claim, Granted)
    await api.stores.jobs.fail(
        claim.lease, JobFailure(code="invalid_output", message="The picture is black.")
    )
    failed = (await api.http.get(job["urls"]["self"])).json()
    assert failed["status"] == "failed"
    assert failed["error"] == {
        "code": "invalid_output",
        "message": "The picture is black.",
        "retryable": False,
    }
    assert (await api.submit())["cache"] == "miss", "failures are not cached"


async def test_cancel_is_idempotent_and_promotes_a_follower(api: ApiUnderTest) -> None:
    first, second = await api.submit(), await api.submit()
    for _ in range(2):
        response = await api.http.post(first["urls"]["cancel"])
        assert response.status_code == 200
        assert response.json()["status"] == "canceled"
    async with asyncio.timeout(5):
        while len(api.publisher.published) < 2:
            await asyncio.sleep(0.01)
    assert api.publisher.published[-1].job_id == second["id"]


async def test_a_joined_job_has_the_place_of_the_one_that_it_joined(api: ApiUnderTest) -> None:
    for seed in range(3):
        await api.submit(seed=seed)
        api.clock.advance(0.01)
    joined = await api.submit(seed=1)
    assert (joined["cache"], joined["queue_position"]) == ("joined", 1)
    assert joined["eta_seconds"] is not None
    claimed = api.publisher.published[1]
    assert isinstance(await api.stores.jobs.claim(claimed, "w"), Granted)
    now = (await api.http.get(joined["urls"]["self"])).json()
    assert (now["status"], now["queue_position"]) == ("queued", 0)
    listed = (await api.http.get("/v1/jobs")).json()["data"]
    assert [job["queue_position"] for job in listed] == [0, 1, None, 0]


async def test_the_list_pages(api: ApiUnderTest) -> None:
    ids = []
    for number in range(5):
        ids.append((await api.submit(seed=number))["id"])
        api.clock.advance(0.01)
    first = (await api.http.get("/v1/jobs", params={"limit": 3})).json()
    second = (await api.http.get("/v1/jobs", params={"limit": 3, "after": first["next_cursor"]})).json()
    assert [job["id"] for job in first["data"] + second["data"]] == ids[::-1]
    assert second["next_cursor"] is None
    assert [job["queue_position"] for job in first["data"]] == [4, 3, 2]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"after": "x"}, "after"),
    ],
)
async def test_a_bad_page_is_refused(api: ApiUnderTest, params: dict[str, Any], field: str) -> None:
    response = await api.http.get("/v1/jobs", params=params)
    assert response.status_code == 422
    assert response.json()["error"]["param"] == field


async def test_unknown_and_forgotten_jobs(api: ApiUnderTest) -> None:
    for path in ("/v1/jobs/nonsense", f"/v1/jobs/{new_job_id(api.clock.now(), 'a')}"):
        assert (await api.http.get(path)).status_code == 404
        assert (await api.http.post(f"{path}/cancel")).status_code == 404
    old = new_job_id(api.clock.now() - 100_000, "a")
    response = await api.http.get(f"/v1/jobs/{old}")
    assert response.status_code == 410
    assert response.json()["error"]["code"] == "job_gone"

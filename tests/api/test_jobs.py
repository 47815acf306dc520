"""Submit, wait, read, list, cancel: the wire contract."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contracts.errors import BrokerUnavailable, QueueFull, StoreUnavailable
from contracts.ids import is_job_id, new_job_id
from contracts.jobs import JobFailure, JobStatus
from contracts.models import WorkerInfo
from contracts.ports import Granted
from tests.api.conftest import Door, Opener
from tests.cache.test_others import spec

pytestmark = pytest.mark.anyio


async def test_a_job_is_accepted_published_and_readable(door: Door) -> None:
    response = await door.http.post("/v1/jobs", json={"prompt": " A red APPLE ", "seed": 7})
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
        "cache": "use",
        "model_revision": "1",
        "lora": None,
        "init_image": None,
        "strength": None,
    }
    (message,) = door.publisher.published
    assert message.job_id == job["id"]
    assert (await door.http.get(job["urls"]["self"])).json() == job
    assert await door.stores.jobs.sweep(job["id"][-1], 10) == ((), ()), "confirmed: not in the outbox"


async def test_a_finished_job_has_its_picture(door: Door) -> None:
    job = await door.submit(seed=7)
    await door.work()
    done = (await door.http.get(job["urls"]["self"])).json()
    assert done["status"] == "succeeded"
    assert done["timings"] == {"queued_ms": 1, "batch_ms": 2, "encode_ms": 3, "batch_size": 4}
    assert done["warnings"] == ["cut"]
    (image,) = done["images"]
    assert (image["seed"], image["content_type"]) == (7, "image/png")
    assert (await door.http.get(image["url"])).status_code == 200


async def test_a_repeat_is_answered_from_the_cache(door: Door) -> None:
    await door.submit()
    await door.work()
    response = await door.http.post("/v1/jobs", json={"prompt": "A  red apple"})
    assert response.status_code == 200
    again = response.json()
    assert (again["status"], again["cache"], again["timings"]) == ("succeeded", "hit", None)
    assert len(door.publisher.published) == 1


async def test_a_repeat_whose_picture_is_gone_is_computed_again(opened: Opener) -> None:
    door = await opened(worker_ttl_s=60)
    await door.submit()
    done = await door.work()
    door.clock.advance(11)
    assert done.result is not None
    assert await door.stores.blobs.prune(0.0, 0) == len(done.result.images)
    assert (await door.submit())["cache"] == "miss"
    assert len(door.publisher.published) == 2


async def test_equal_requests_in_flight_are_joined(door: Door) -> None:
    first, second = await door.submit(), await door.submit()
    assert (first["cache"], second["cache"]) == ("miss", "joined")
    assert len(door.publisher.published) == 1
    await door.work()
    assert (await door.http.get(second["urls"]["self"])).json()["status"] == "succeeded"


async def test_a_random_seed_is_never_shared(door: Door) -> None:
    jobs = [await door.submit(seed="random") for _ in range(5)]
    assert len({job["request"]["seed"] for job in jobs}) == 5
    assert len(door.publisher.published) == 5


async def test_a_derived_seed_is_the_same_for_the_same_request(door: Door) -> None:
    seeds = [(await door.submit(prompt=prompt))["request"]["seed"] for prompt in ("a cat", "A CAT ", "a dog")]
    assert seeds[0] == seeds[1] != seeds[2]


@pytest.mark.parametrize("prefer", ["wait=10", "respond-async, wait=10", 'wait="10"'])
async def test_a_held_submit_answers_with_the_picture(door: Door, prefer: str) -> None:
    asking = asyncio.create_task(
        door.http.post("/v1/jobs", json={"prompt": "a red apple"}, headers={"Prefer": prefer})
    )
    while not door.publisher.published:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    await door.work()
    async with asyncio.timeout(5):
        response = await asking
    assert response.status_code == 200
    assert response.headers["preference-applied"] == "wait=10"
    assert response.json()["status"] == "succeeded"


async def test_a_wait_that_is_over_answers_the_job_as_it_stands(door: Door) -> None:
    job = await door.submit()
    response = await door.http.get(job["urls"]["self"], headers={"Prefer": "wait=1"})
    assert response.status_code == 200
    assert response.json()["status"] == "queued"
    assert response.headers["preference-applied"] == "wait=1"


@pytest.mark.parametrize("prefer", ["wait=x", "wait=-1", "wait", "wait=0", "return=minimal"])
async def test_a_preference_that_is_not_understood_is_ignored(door: Door, prefer: str) -> None:
    response = await door.http.post("/v1/jobs", json={"prompt": "a"}, headers={"Prefer": prefer})
    assert response.status_code == 202
    assert "preference-applied" not in response.headers


async def test_a_failed_job_tells_why(door: Door) -> None:
    job = await door.submit()
    claim = await door.stores.jobs.claim(door.publisher.published[-1], "w")
    assert isinstance(claim, Granted)
    await door.stores.jobs.fail(
        claim.lease, JobFailure(code="invalid_output", message="The picture is black.")
    )
    failed = (await door.http.get(job["urls"]["self"])).json()
    assert failed["status"] == "failed"
    assert failed["error"] == {
        "code": "invalid_output",
        "message": "The picture is black.",
        "retryable": False,
    }
    assert (await door.submit())["cache"] == "miss", "failures are not cached"


async def test_cancel_is_idempotent_and_promotes_a_follower(door: Door) -> None:
    first, second = await door.submit(), await door.submit()
    for _ in range(2):
        response = await door.http.post(first["urls"]["cancel"])
        assert response.status_code == 200
        assert response.json()["status"] == "canceled"
    async with asyncio.timeout(5):
        while len(door.publisher.published) < 2:
            await asyncio.sleep(0.01)
    assert door.publisher.published[-1].job_id == second["id"]


async def test_a_joined_job_has_the_place_of_the_one_that_it_joined(door: Door) -> None:
    for seed in range(3):
        await door.submit(seed=seed)
        door.clock.advance(0.01)
    joined = await door.submit(seed=1)
    assert (joined["cache"], joined["queue_position"]) == ("joined", 1)
    assert joined["eta_seconds"] is not None
    claimed = door.publisher.published[1]
    assert isinstance(await door.stores.jobs.claim(claimed, "w"), Granted)
    now = (await door.http.get(joined["urls"]["self"])).json()
    assert (now["status"], now["queue_position"]) == ("queued", 0)
    listed = (await door.http.get("/v1/jobs")).json()["data"]
    assert [job["queue_position"] for job in listed] == [0, 1, None, 0]


async def test_the_list_pages(door: Door) -> None:
    ids = []
    for number in range(5):
        ids.append((await door.submit(seed=number))["id"])
        door.clock.advance(0.01)
    first = (await door.http.get("/v1/jobs", params={"limit": 3})).json()
    second = (await door.http.get("/v1/jobs", params={"limit": 3, "after": first["next_cursor"]})).json()
    assert [job["id"] for job in first["data"] + second["data"]] == ids[::-1]
    assert second["next_cursor"] is None
    assert [job["queue_position"] for job in first["data"]] == [4, 3, 2]


@pytest.mark.parametrize(
    ("params", "field"),
    [({"limit": 0}, "limit"), ({"limit": 101}, "limit"), ({"limit": "x"}, "limit"), ({"after": "x"}, "after")],
)
async def test_a_bad_page_is_refused(door: Door, params: dict[str, Any], field: str) -> None:
    response = await door.http.get("/v1/jobs", params=params)
    assert response.status_code == 422
    assert response.json()["error"]["param"] == field


async def test_unknown_and_forgotten_jobs(door: Door) -> None:
    for path in ("/v1/jobs/nonsense", f"/v1/jobs/{new_job_id(door.clock.now(), 'a')}"):
        assert (await door.http.get(path)).status_code == 404
        assert (await door.http.post(f"{path}/cancel")).status_code == 404
    old = new_job_id(door.clock.now() - 100_000, "a")
    response = await door.http.get(f"/v1/jobs/{old}")
    assert response.status_code == 410
    assert response.json()["error"]["code"] == "job_gone"


async def test_the_first_model_is_the_default_unless_one_is_set(opened: Opener) -> None:
    door = await opened(models=("b", "a"))
    assert (await door.submit())["request"]["model"] == "a"
    assert (await door.submit(model="b"))["request"]["model"] == "b"
    door = await opened(models=("b", "a"), default_model="b")
    assert (await door.submit())["request"]["model"] == "b"


async def test_models_unknown_and_not_yet_announced(opened: Opener) -> None:
    door = await opened(models=())
    response = await door.http.post("/v1/jobs", json={"prompt": "a"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "model_unavailable")
    assert "retry-after" in response.headers
    door = await opened()
    response = await door.http.post("/v1/jobs", json={"prompt": "a", "model": "nope"})
    assert (response.status_code, response.json()["error"]["param"]) == (404, "model")


async def test_a_model_that_nobody_serves_takes_no_jobs_that_would_wait_for_ever(door: Door) -> None:
    door.clock.advance(3600)
    response = await door.http.post("/v1/jobs", json={"prompt": "a red apple"})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "model_unavailable"
    assert int(response.headers["retry-after"]) >= 1


async def test_a_model_whose_worker_left_a_moment_ago_takes_jobs_and_says_so(opened: Opener) -> None:
    door = await opened(worker_ttl_s=10, worker_grace_s=60)
    door.clock.advance(59)
    job = await door.submit()
    assert job["eta_seconds"] is None
    assert "No worker serves this model now" in job["warnings"][0]
    assert len(door.publisher.published) == 1
    door.clock.advance(2)
    response = await door.http.post("/v1/jobs", json={"prompt": "a green apple"})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "model_unavailable"


async def test_without_grace_a_model_is_refused_with_its_last_worker(opened: Opener) -> None:
    door = await opened(worker_ttl_s=10, worker_grace_s=0)
    await door.submit()
    door.clock.advance(11)
    response = await door.http.post("/v1/jobs", json={"prompt": "a green apple"})
    assert response.json()["error"]["code"] == "model_unavailable"


async def test_by_default_a_model_is_asked_that_somebody_serves(opened: Opener) -> None:
    door = await opened(models=("a", "b"))
    door.clock.advance(3600)
    await door.stores.models.announce(
        spec("b"), WorkerInfo(id="w-b", model="b", started_at=door.clock.now(), steps_per_s=1.0)
    )
    door.clock.advance(2)
    assert (await door.submit())["request"]["model"] == "b"


async def test_a_model_that_scales_from_zero_takes_jobs_and_says_so(opened: Opener) -> None:
    door = await opened(scale_from_zero=True)
    door.clock.advance(3600)
    job = await door.submit()
    assert job["eta_seconds"] is None
    assert "No worker serves this model now" in job["warnings"][0]
    (model,) = (await door.http.get("/v1/models")).json()["data"]
    assert model["live_workers"] == 0


@pytest.mark.parametrize("fault", [BrokerUnavailable("away"), QueueFull("full")])
async def test_a_broker_that_refuses_leaves_nothing_behind(
    door: Door, fault: BrokerUnavailable | QueueFull
) -> None:
    door.publisher.fault = fault
    response = await door.http.post("/v1/jobs", json={"prompt": "a red apple"})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == fault.code
    assert int(response.headers["retry-after"]) >= 1
    assert (await door.http.get("/v1/jobs")).json()["data"] == []
    assert (await door.http.get("/readyz")).status_code == 503
    door.publisher.fault = None
    assert (await door.submit())["cache"] == "miss"


async def test_what_cannot_be_done_in_time_is_refused_at_the_door(opened: Opener) -> None:
    door = await opened(job_ttl_s=10)  # the worker does ten images a second
    waiting = [await door.submit(seed=number) for number in range(80)]
    door.clock.advance(1)
    response = await door.http.post("/v1/jobs", json={"prompt": "a red apple", "seed": 1000})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "queue_full"
    assert "about 8 s" in response.json()["error"]["message"]
    assert int(response.headers["retry-after"]) >= 1
    assert (await door.submit(seed=79))["cache"] == "joined", "what costs nothing is welcome"
    for job in waiting[:10]:
        await door.http.post(job["urls"]["cancel"])
    door.clock.advance(1)
    assert (await door.submit(seed=1000))["cache"] == "miss"


async def test_a_refused_leader_hands_over_to_its_follower(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, failed = asyncio.Event(), asyncio.Event()
    publish = door.publisher.publish

    async def first_fails(message: Any) -> None:
        if failed.is_set():
            await publish(message)
            return
        failed.set()
        await gate.wait()
        raise BrokerUnavailable("away")

    monkeypatch.setattr(door.publisher, "publish", first_fails)
    leader = asyncio.create_task(door.http.post("/v1/jobs", json={"prompt": "a red apple"}))
    await failed.wait()
    follower = await door.submit()
    assert follower["cache"] == "joined"
    gate.set()
    assert (await leader).status_code == 503
    async with asyncio.timeout(5):
        while not door.publisher.published:
            await asyncio.sleep(0.01)
    assert door.publisher.published[0].job_id == follower["id"]


async def test_a_client_that_hangs_up_leaves_no_half_job(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()
    publish = door.publisher.publish

    async def slow(message: Any) -> None:
        begun.set()
        await gate.wait()
        await publish(message)

    monkeypatch.setattr(door.publisher, "publish", slow)
    asking = asyncio.create_task(door.http.post("/v1/jobs", json={"prompt": "a red apple"}))
    await begun.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    gate.set()
    async with asyncio.timeout(5):
        while not door.publisher.published:
            await asyncio.sleep(0.01)
    (job,) = await door.stores.jobs.list("public", 5)
    assert job.status is JobStatus.QUEUED


async def test_a_store_that_is_away_is_a_503_and_a_cache_that_is_away_a_miss(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("The store did not answer.")

    monkeypatch.setattr(door.stores.results, "get", away)
    assert (await door.submit())["cache"] == "miss"
    monkeypatch.setattr(door.stores.jobs, "submit_many", away)
    response = await door.http.post("/v1/jobs", json={"prompt": "a red apple"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "store_unavailable")
    assert "retry-after" in response.headers


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/json", "png"),
        ("*/*", "png"),
        ("image/*", "png"),
        ("image/webp", "webp"),
        ("application/json, Image/JPEG", "jpeg"),
        ("image/png;q=0.5, image/webp;q=0.8", "webp"),
        ("image/webp;q=0", "png"),
        ("image/webp;q=x", "webp"),
    ],
)
async def test_the_format_is_what_accept_likes_best(door: Door, accept: str, expected: str) -> None:
    response = await door.http.post("/v1/jobs", json={"prompt": "a"}, headers={"Accept": accept})
    assert response.json()["request"]["output_format"] == expected


async def test_a_field_outdoes_accept_and_the_platforms_own_format_comes_last(opened: Opener) -> None:
    door = await opened(default_output_format="webp")
    assert (await door.submit())["request"]["output_format"] == "webp"
    response = await door.http.post(
        "/v1/jobs", json={"prompt": "a", "output_format": "jpeg"}, headers={"Accept": "image/png"}
    )
    assert response.json()["request"]["output_format"] == "jpeg"


async def test_what_an_encoder_does_not_read_makes_no_other_request(door: Door) -> None:
    first = await door.submit(output_quality=50)
    assert first["request"]["output_quality"] == 90
    assert (await door.submit(lossless=True))["cache"] == "joined", "a PNG always is"
    assert (await door.submit(output_format="webp", lossless=True, output_quality=3))["cache"] == "miss"
    assert (await door.submit(output_format="webp", lossless=True, output_quality=4))["cache"] == "joined"
    assert (await door.submit(output_format="webp"))["cache"] == "miss"

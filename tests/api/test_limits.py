"""What a request may cost, how deep and long its body may be, and what else a key's limits decide; batches and repeats."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from typing import Any

import pytest

from api.body import MAX_BRACKETS, MAX_DEPTH, parse_json
from contracts.errors import BrokerUnavailable, MalformedBody
from contracts.jobs import JobStatus
from tests.api.conftest import ADMIN, ApiUnderTest, Opener

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}


async def key(api: ApiUnderTest, **limits: Any) -> dict[str, str]:
    response = await api.http.post("/v1/keys", json={"tenant": "acme", **limits}, headers=ADMIN)
    assert response.status_code == 201, response.text
    return {"X-API-Key": response.json()["key"]}


async def test_a_job_that_costs_too_much_is_refused_with_the_limit(opened: Opener) -> None:
    api = await opened(max_cost=0.01)
    taken = {"prompt": "a", "width": 64, "height": 64, "num_inference_steps": 2}
    assert (await api.http.post("/v1/jobs", json=taken)).status_code == 202
    for more in ({"num_inference_steps": 3}, {"num_images": 2}, {"width": 96, "height": 96}):
        response = await api.http.post("/v1/jobs", json={**taken, **more})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (422, "num_inference_steps")
        assert "at most max_cost, 0.01 megapixel-steps, not 0.0" in error["message"]
    assert len(api.publisher.published) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * (MAX_DEPTH + 1), "too deeply"),
        ('{"a":' * 20_000, "too deeply"),
        ('{"prompt": ' + "[" * 30_000 + "]" * 30_000 + "}", "too deeply"),
        ('{"requests": [' + "{}," * MAX_BRACKETS + "{}]}", "too many lists and objects"),
        ('{"prompt": "' + "[" * 100, "Unterminated string"),
        ('"' * 50_001, "not valid JSON"),
        ('"' + '\\"' * 30_000 + "[" * 20, "Unterminated string"),
        ("[" * MAX_DEPTH + '"\\', "not valid JSON"),
    ],
)
def test_deep_and_broken_bodies_are_refused_in_little_time(text: str, says: str) -> None:
    tracemalloc.start()
    begun = time.process_time()
    with pytest.raises(MalformedBody, match=says):
        parse_json(text.encode())
    took_s, (_, peak) = time.process_time() - begun, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took_s < 3.0, "a quadratic one takes minutes"
    assert peak < 4 * len(text) + 200_000


def test_brackets_in_a_string_are_no_depth() -> None:
    prompt = 'a "[[{{' + "\\" + '" ' + "[" * 200
    assert parse_json(json.dumps({"prompt": prompt}).encode()) == {"prompt": prompt}
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(deep.encode()) == json.loads(deep)


async def test_only_a_batch_may_be_long(opened: Opener) -> None:
    api = await opened(max_body_bytes=1000, max_batch_body_bytes=10_000, max_init_image_bytes=3000)
    long = {"requests": [{"prompt": "x" * 1500}]}
    assert (await api.http.post("/v1/jobs:batch", json=long)).status_code == 200
    assert (await api.http.post("/v1/jobs", json=long["requests"][0])).status_code == 413

    async def endless() -> Any:
        while True:
            yield b" " * 4096

    for path, limit in (("/v1/jobs:batch", "10000"), ("/v1/jobs", "5504"), ("/v1/keys", "1000")):
        response = await api.http.post(path, content=endless(), headers={**JSON, **ADMIN})
        assert response.status_code == 413
        assert limit in response.json()["error"]["message"]
        declared = {**JSON, **ADMIN, "Content-Length": str(10**9)}
        assert (await api.http.post(path, content=b"{", headers=declared)).status_code == 413


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "requests"),
        ({"requests": []}, "requests"),
        ({"requests": [{"prompt": "a"}] * 257}, "requests"),
        ({"requests": {"prompt": "a"}}, "requests"),
        ({"requests": [{"prompt": "a"}], "x" * 500: 1}, "x" * 64),
        ([], ""),
    ],
)
async def test_a_batch_that_is_none_is_refused_whole(api: ApiUnderTest, body: Any, param: str) -> None:
    response = await api.http.post("/v1/jobs:batch", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (422, param)
    assert api.publisher.published == []


async def test_a_batch_says_of_each_what_became_of_it(api: ApiUnderTest) -> None:
    await api.submit(prompt="done before")
    await api.work()
    requests: list[Any] = [
        {"prompt": "one"},
        {"prompt": "done before"},
        {"prompt": "two", "width": 1},
        {"prompt": "one"},
        {"prompt": "x", "wrong": 1},
        7,
        {"prompt": "\ud800"},
    ]
    response = await api.http.post("/v1/jobs:batch", content=json.dumps({"requests": requests}), headers=JSON)
    assert response.status_code == 207
    answer = response.json()
    assert (answer["accepted"], answer["refused"]) == (3, 4)
    assert [item["status"] for item in answer["data"]] == [202, 200, 422, 202, 422, 422, 422]
    one, hit, refused, again = [item["job"] and item["job"]["cache"] for item in answer["data"]][:4]
    assert (hit, refused) == ("hit", None)
    assert {one, again} == {"miss", "joined"}, "whichever came to the store first leads"
    assert answer["data"][2]["error"]["param"] == "width"
    assert answer["data"][4]["error"]["param"] == "wrong"
    assert all(each["error"]["request_id"] == response.headers["x-request-id"] for each in answer["data"][4:])
    whole = await api.http.post("/v1/jobs:batch", json={"requests": [{"prompt": "three"}]})
    assert (whole.status_code, whole.json()["refused"]) == (200, 0)


async def test_a_batch_survives_a_broker_that_is_away(api: ApiUnderTest) -> None:
    api.publisher.fault = BrokerUnavailable("away")
    response = await api.http.post("/v1/jobs:batch", json={"requests": [{"prompt": "a"}, {"prompt": "b"}]})
    assert response.status_code == 207
    assert {(item["status"], item["retry_after_s"]) for item in response.json()["data"]} == {(503, 2)}


async def test_a_repeat_whose_message_was_not_published_keeps_its_job(api: ApiUnderTest) -> None:
    """503 the first time; the same key then finds the same job, and publishes it."""
    headers = {"Idempotency-Key": "k"}
    body = {"prompt": "a", "seed": "random"}
    api.publisher.fault = BrokerUnavailable("away")
    assert (await api.http.post("/v1/jobs", json=body, headers=headers)).status_code == 503
    (waiting,) = await api.stores.jobs.list("public", 5)
    api.publisher.fault = None
    response = await api.http.post("/v1/jobs", json=body, headers=headers)
    assert (response.status_code, response.json()["id"]) == (202, waiting.id)
    assert [message.job_id for message in api.publisher.published] == [waiting.id]


async def test_copies_that_come_together_are_published_once(api: ApiUnderTest) -> None:
    headers = {"Idempotency-Key": "k"}
    responses = await asyncio.gather(
        *(api.http.post("/v1/jobs", json={"prompt": "a"}, headers=headers) for _ in range(100))
    )
    assert {(response.status_code, response.json()["id"]) for response in responses} == {
        (202, api.publisher.published[0].job_id)
    }
    assert len(api.publisher.published) == 1
    other = await api.http.post("/v1/jobs", json={"prompt": "b"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reuse")


async def test_a_repeat_waits_if_asked_and_outlives_its_model(api: ApiUnderTest) -> None:
    headers = {"Idempotency-Key": "k"}
    first = await api.http.post("/v1/jobs", json={"prompt": "a"}, headers=headers)
    await api.work()
    again = await api.http.post("/v1/jobs", json={"prompt": "a"}, headers={**headers, "Prefer": "wait=5"})
    assert (again.status_code, again.json()["status"]) == (200, "succeeded")
    assert again.json()["id"] == first.json()["id"]
    api.clock.advance(60)  # no worker lives that would take a new job
    later = await api.http.post("/v1/jobs", json={"prompt": "a"}, headers=headers)
    assert (later.status_code, later.json()["id"]) == (202, first.json()["id"])
    api.clock.advance(86_400)
    assert (await api.http.post("/v1/jobs", json={"prompt": "a"}, headers=headers)).status_code == 503


@pytest.mark.parametrize("value", ["", "x" * 256])
async def test_an_idempotency_key_has_its_bounds(api: ApiUnderTest, value: str) -> None:
    response = await api.http.post("/v1/jobs", json={"prompt": "a"}, headers={"Idempotency-Key": value})
    assert (response.status_code, response.json()["error"]["param"]) == (422, "idempotency-key")


async def test_a_refused_job_gives_back_what_it_was_charged(api: ApiUnderTest) -> None:
    mine = await key(api, concurrent_jobs=1, images_per_day=1)
    api.publisher.fault = BrokerUnavailable("away")
    for _ in range(3):
        assert (await api.http.post("/v1/jobs", json={"prompt": "a"}, headers=mine)).status_code == 503
    api.publisher.fault = None
    assert (await api.http.post("/v1/jobs", json={"prompt": "a"}, headers=mine)).status_code == 202


async def test_hits_are_free_of_a_place_but_not_of_the_day(api: ApiUnderTest) -> None:
    mine = await key(api, concurrent_jobs=1, images_per_day=3)
    await api.http.post("/v1/jobs", json={"prompt": "a"}, headers=mine)
    await api.work()
    assert (await api.http.post("/v1/jobs", json={"prompt": "b"}, headers=mine)).status_code == 202
    hit = await api.http.post("/v1/jobs", json={"prompt": "a"}, headers=mine)
    assert (hit.status_code, hit.json()["cache"]) == (200, "hit")
    over = await api.http.post("/v1/jobs", json={"prompt": "a"}, headers=mine)
    assert (over.status_code, over.json()["error"]["details"]["limit"]) == (429, "images_per_day")
    assert 0 < int(over.headers["retry-after"]) <= 86_400


async def test_limits_are_the_keys_and_told_in_headers(api: ApiUnderTest) -> None:
    mine = await key(api, requests_per_minute=120, burst=4, concurrent_jobs=2)
    response = await api.http.post("/v1/jobs", json={"prompt": "a"}, headers=mine)
    assert response.headers["ratelimit-policy"] == (
        '"requests_per_minute";q=4;w=2, "concurrent_jobs";q=2;qu="jobs"'
    )
    assert response.headers["ratelimit"] == '"requests_per_minute";r=3;t=1, "concurrent_jobs";r=1'
    assert response.headers["ratelimit-remaining"] == "1"
    assert "ratelimit" not in (await api.http.post("/v1/jobs", json={"prompt": "a"})).headers


async def test_a_key_decides_priority_and_weight(api: ApiUnderTest) -> None:
    batch_only = await key(api, priorities=["batch"], weight=3.0)
    accepted = await api.http.post("/v1/jobs", json={"prompt": "a"}, headers=batch_only)
    assert accepted.status_code == 202
    assert api.publisher.published[-1].priority == "batch", "the best class that it may have"
    refused = await api.http.post(
        "/v1/jobs", json={"prompt": "b", "priority": "interactive"}, headers=batch_only
    )
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (403, "priority")
    assert error["details"] == {"allowed_priorities": ["batch"]}


async def test_a_place_is_free_the_moment_a_job_ends(api: ApiUnderTest) -> None:
    mine = await key(api, concurrent_jobs=3)
    for round_ in range(20):
        jobs = [
            (await api.http.post("/v1/jobs", json={"prompt": f"{round_} {i}"}, headers=mine))
            for i in range(4)
        ]
        assert [response.status_code for response in jobs] == [202, 202, 202, 429]
        for message in api.publisher.published[-3:]:
            await api.work(message)
    listed = (await api.http.get("/v1/jobs", params={"limit": 100}, headers=mine)).json()["data"]
    assert {job["status"] for job in listed} == {JobStatus.SUCCEEDED}
    assert len(listed) == 60

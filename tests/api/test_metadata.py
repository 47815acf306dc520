"""A client's own pairs: kept with its job, told wherever the job is, and of no influence on its pictures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.store_quota import kept_bytes
from contracts.requests import GenerationRequest
from store.packed_request import unpack
from tests.api.conftest import ApiUnderTest
from tests.api.test_bad_input import check_shape
from webhooks.payload import payload

pytestmark = pytest.mark.anyio

ANNA, BEN = {"customer": "anna", "order": "17"}, {"customer": "ben"}
FULL = {f"{number:02}" + "ä" * 62: "苹" * 512 for number in range(16)}


async def told_everywhere(api: ApiUnderTest, job: dict[str, Any]) -> list[dict[str, str]]:
    """The metadata of a job, by each way in which it is told."""
    read = (await api.http.get(job["urls"]["self"])).json()
    listed = (await api.http.get("/v1/jobs")).json()["data"]
    stream = (await api.http.get(job["urls"]["events"])).text
    snapshot = json.loads(stream.partition("event: snapshot\ndata: ")[2].partition("\n")[0])
    record = await api.stores.jobs.get("public", job["id"])
    called = json.loads(payload(record, None))["data"]
    (entry,) = [each for each in listed if each["id"] == job["id"]]
    return [each["request"]["metadata"] for each in (job, read, entry, snapshot, called)]


@pytest.mark.parametrize("metadata", [ANNA, FULL, {"a": "", "\n": '"\x00\\'}], ids=["few", "most", "odd"])
async def test_a_job_tells_what_was_sent_with_it(api: ApiUnderTest, metadata: dict[str, str]) -> None:
    job = await api.submit(metadata=metadata, webhook={"url": "https://example.com/hook"})
    await api.work()
    assert await told_everywhere(api, job) == [metadata] * 5


@pytest.mark.parametrize("metadata", [None, {}])
async def test_none_is_an_empty_object_and_is_not_stored(api: ApiUnderTest, metadata: Any) -> None:
    plain = await api.submit()
    job = await api.submit(metadata=metadata)
    assert job["request"]["metadata"] == plain["request"]["metadata"] == {}
    assert '"metadata"' not in (await api.stores.jobs.get("public", job["id"])).request.model_dump_json()


async def test_requests_that_differ_in_it_alone_share_a_picture_and_tell_their_own(api: ApiUnderTest) -> None:
    bodies = [{"prompt": "a red apple", "metadata": each} for each in (ANNA, BEN, None)]
    answers = [await api.http.post("/v1/jobs", json=body) for body in bodies]
    leader, joined, plain = [answer.json() for answer in answers]
    assert [each["cache"] for each in (leader, joined, plain)] == ["miss", "joined", "joined"]
    assert len({answer.headers["x-cache-key"] for answer in answers}) == 1
    assert len({each["request"]["seed"] for each in (leader, joined, plain)}) == 1
    assert len(api.publisher.published) == 1
    await api.work()
    # The second of each hit is answered from what the process remembers.
    hits = [(await api.http.post("/v1/jobs", json=body)).json() for body in bodies + bodies]
    assert [each["cache"] for each in hits] == ["hit"] * 6
    for job, metadata in zip(
        [leader, joined, plain, *hits], [ANNA, BEN, {}, *[ANNA, BEN, {}] * 2], strict=True
    ):
        assert job["request"]["metadata"] == metadata
        assert (await told_everywhere(api, job))[1:] == [metadata] * 4
        ended = (await api.http.get(job["urls"]["self"])).json()
        assert ended["images"] == hits[0]["images"]


async def test_a_worker_gets_it_with_the_job(api: ApiUnderTest) -> None:
    """So a record that the store has lost is rebuilt whole."""
    job = await api.submit(metadata=ANNA)
    message = api.publisher.published[-1]
    assert message.request.metadata == ANNA
    await api.stores.jobs.withdraw(job["id"])
    other = message.model_copy(update={"job_id": message.job_id[:-1] + "0"})
    await api.stores.jobs.claim(other, "w")
    assert (await api.stores.jobs.get("public", other.job_id)).request.metadata == ANNA


@pytest.mark.parametrize(
    ("metadata", "param", "says"),
    [
        ("order 17", "metadata", "an object of at most 16 pairs"),
        (["order", "17"], "metadata", "an object of at most 16 pairs"),
        (17, "metadata", "an object of at most 16 pairs"),
        ({f"{number}": "" for number in range(17)}, "metadata", "at most 16 pairs"),
        ({"": "x"}, "metadata.", "at least 1 character"),
        ({"k" * 65: "x"}, "metadata." + "k" * 55, "at most 64 characters"),
        ({"order": "x" * 513}, "metadata.order", "at most 512 characters"),
        ({"order": 17}, "metadata.order", "a valid string"),
        ({"order": None}, "metadata.order", "a valid string"),
        ({"order": True}, "metadata.order", "a valid string"),
        ({"order": {"number": "17"}}, "metadata.order", "a valid string"),
        ({"order": "\ud800"}, "metadata.order", "unicode"),
        ({"\udfff": "x"}, "metadata." + "\ufffd" * 3, "unicode"),
    ],
)
async def test_what_is_no_metadata_is_refused_with_field_and_limit(
    api: ApiUnderTest, metadata: Any, param: str, says: str
) -> None:
    body = json.dumps({"prompt": "a", "metadata": metadata})
    response = await api.http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    error = check_shape(response)
    assert (response.status_code, error["param"]) == (422, param)
    assert says in error["message"]
    assert error["message"].startswith(param)
    assert api.publisher.published == []


async def test_it_is_part_of_the_body_that_an_idempotency_key_stands_for(api: ApiUnderTest) -> None:
    headers = {"Idempotency-Key": "one"}
    bodies = [{"prompt": "a", "metadata": each} for each in (ANNA, ANNA, BEN)]
    first, again, other = [await api.http.post("/v1/jobs", json=body, headers=headers) for body in bodies]
    assert first.json()["id"] == again.json()["id"]
    assert again.json()["request"]["metadata"] == ANNA
    assert (other.status_code, check_shape(other)["code"]) == (422, "idempotency_key_reuse")


async def test_each_of_a_batch_has_its_own(api: ApiUnderTest) -> None:
    requests = [{"prompt": "a", "metadata": each} for each in (ANNA, BEN)]
    answer = await api.http.post("/v1/jobs:batch", json={"requests": requests})
    assert [each["job"]["request"]["metadata"] for each in answer.json()["data"]] == [ANNA, BEN]


async def test_the_document_of_the_api_says_the_limits(api: ApiUnderTest) -> None:
    schemas = (await api.http.get("/openapi.json")).json()["components"]["schemas"]
    told = schemas["JobRequest"]["properties"]["metadata"]["anyOf"][0]
    assert told == {
        "type": "object",
        "maxProperties": 16,
        "propertyNames": {"minLength": 1, "maxLength": 64},
        "additionalProperties": {"type": "string", "maxLength": 512},
    }


async def test_it_counts_in_what_a_tenant_keeps(api: ApiUnderTest) -> None:
    await api.submit()
    plain = await api.stores.jobs.get("public", (await api.submit())["id"])
    told = await api.stores.jobs.get("public", (await api.submit(metadata=ANNA))["id"])
    longer = len(told.request.model_dump_json()) - len(plain.request.model_dump_json())
    assert kept_bytes(told) - kept_bytes(plain) == pytest.approx(longer, abs=20)
    full = await api.stores.jobs.get("public", (await api.submit(metadata=FULL))["id"])
    assert kept_bytes(full) > kept_bytes(plain) + 100


def test_a_process_that_does_not_know_it_passes_it_on() -> None:
    """As that one reads: the fields that it does not know are kept."""

    class Before(GenerationRequest):
        """Of a version without the field."""

    Before.model_fields.pop("metadata")
    Before.model_rebuild(force=True)
    text = (
        '{"model":"m","prompt":"p","width":8,"height":8,"num_inference_steps":1,"guidance_scale":0,"seed":1,'
        '"metadata":{"order":"17"}}'
    )
    before = Before.model_validate_json(text)
    assert "metadata" not in Before.model_fields
    assert before.readable
    assert before.__pydantic_extra__ == {"metadata": {"order": "17"}}
    assert unpack(before.model_dump_json()).metadata == {"order": "17"}

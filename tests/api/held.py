"""Jobs whose images a policy holds, blocks or tags, ended as a worker ends them, and the calls of reviewers."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx

from backends.blobs import blob_name
from cache.cache_key import result_address, tenant_scope
from contracts.jobs import ImageRef, Job, JobMessage, JobResult, Timings
from contracts.moderation import State
from contracts.pictures import Embedding, PictureRecord
from contracts.transitions import End, Finished, Granted
from tests.api.conftest import ADMIN, ApiUnderTest
from tests.store.held import verdict
from worker.verdicts import held_images, never_looked_at

KEEP_S = 5000.0
REVIEWS = "/v1/admin/moderation/reviews"


def file_of(message: JobMessage, index: int) -> bytes:
    """The file of an image: the same for equal requests, as a seed draws it."""
    return b"\x89PNG\r\n\x1a\n" + hashlib.sha256(f"{message.key}:{index}".encode()).digest() * 8


async def drawn(
    api: ApiUnderTest,
    *states: State | None,
    message: JobMessage | None = None,
    embedding: bytes | None = None,
) -> Job:
    """Ends the newest job with an image in each of these states."""
    message = message or api.publisher.published[-1]
    claim = await api.stores.jobs.claim(message, "w")
    assert isinstance(claim, Granted)
    refs, names, pictures = [], [], []
    for index, state in enumerate(states or ("in_review",)):
        data = file_of(message, index)
        public = blob_name(data, "png")
        name = ""
        if state not in ("blocked", "refused"):
            name = await api.stores.blobs.put(data, "png", is_held=state == "in_review")
        names.append(public)
        refs.append(
            ImageRef(
                name=name,
                width=64,
                height=64,
                seed=index,
                content_type="image/png",
                size_bytes=len(data),
                moderation=None if state is None else verdict(state),
            )
        )
        if embedding is not None:
            record = PictureRecord(
                scope=message.tenant,
                name=public,
                embedding=Embedding.of("clip@1", embedding),
                created_at=1.0,
                expires_at=1.0 + KEEP_S,
                width=64,
                height=64,
                job_id=message.job_id,
            )
            pictures.append(record)
    timings = Timings(queued_ms=1, batch_ms=2, encode_ms=3, batch_size=4)
    address = result_address(message.key, message.request, tenant_scope(message.tenant, shared=False))
    held = held_images(message, refs, names, names, pictures, KEEP_S, never_looked_at)
    end = End(claim.lease, JobResult(images=tuple(refs), timings=timings), address, (), held)
    (answer,) = await api.stores.jobs.end_many([end])
    assert isinstance(answer, Finished)
    assert answer.applied
    return await api.stores.jobs.get(message.tenant, message.job_id)


async def moderator(api: ApiUnderTest, name: str = "Ada") -> dict[str, str]:
    """The headers of a new key with the scope `moderate` alone."""
    body = {"tenant": "desk", "name": name, "scopes": ["moderate"]}
    response = await api.http.post("/v1/keys", json=body, headers=ADMIN)
    assert response.status_code == 201, response.text
    return {"X-API-Key": response.json()["key"]}


async def listed(api: ApiUnderTest, headers: dict[str, str], **query: Any) -> list[dict[str, Any]]:
    response = await api.http.get(REVIEWS, params=query, headers=headers)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["data"]
    return found


async def decide(
    api: ApiUnderTest, name: str, action: str, headers: dict[str, str], note: str | None = None
) -> httpx.Response:
    body = {} if note is None else {"json": {"note": note}}
    return await api.http.post(f"{REVIEWS}/{name}/{action}", headers=headers, **body)  # type: ignore[arg-type]


async def image_of(api: ApiUnderTest, job_id: str, index: int = 0) -> dict[str, Any]:
    """An image as its owner sees it."""
    image: dict[str, Any] = (await api.http.get(f"/v1/jobs/{job_id}")).json()["images"][index]
    return image

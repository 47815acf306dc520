"""Jobs and results for the contract of the job store, and the first steps of their way."""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Iterable
from typing import Any

from contracts.ids import new_job_id
from contracts.jobs import ImageRef, JobFailure, JobResult, JobStatus, Lease, NewJob, Timings
from contracts.pictures import Embedding, PictureRecord
from contracts.ports.job_store import JobStore
from contracts.requests import GenerationRequest
from contracts.transitions import Granted, TakenJob

KEY = "a" * 64
CLIP = "emoji-clip@0123456789abcdef"
KEEP_S = 5000.0
"""For so long the records of pictures stay."""
FAILURE = JobFailure(code="engine_fault", message="it broke")
_ticks = itertools.count()


def result(name: str = "0" * 64 + ".png") -> JobResult:
    image = ImageRef(name=name, width=64, height=64, seed=1, content_type="image/png", size_bytes=9)
    return JobResult(
        images=(image,), timings=Timings(queued_ms=1, batch_ms=2, encode_ms=3, batch_size=4), warnings=("w",)
    )


def new(key: str = KEY, tenant: str = "public", model: str = "m", ttl_s: float = 60.0) -> NewJob:
    request = GenerationRequest(
        model=model,
        prompt="Ein Apfel ☂",
        width=64,
        height=64,
        num_inference_steps=1,
        guidance_scale=0.0,
        seed=2**53 - 1,
    )
    # Ids of one test are in order, as they are in one process.
    stamp = time.time() + next(_ticks) / 1000
    return NewJob(id=new_job_id(stamp, key[0]), tenant=tenant, key=key, request=request, ttl_s=ttl_s)


async def led(jobs: JobStore, job: NewJob, worker: str = "w1") -> Lease:
    """Submits a job that leads and claims it."""
    submitted = await jobs.submit(job)
    assert submitted.lead
    return await claimed(jobs, submitted.job.message().job_id, worker)


async def claimed(jobs: JobStore, job_id: str, worker: str = "w1") -> Lease:
    message = (await jobs.get("public", job_id)).message()
    claim = await jobs.claim(message, worker)
    assert isinstance(claim, Granted)
    return claim.lease


async def status(jobs: JobStore, job_id: str) -> JobStatus:
    return (await jobs.get("public", job_id)).status


async def submitted(jobs: JobStore, keys: Iterable[str], tenant: str, **changes: object) -> list[str]:
    made = [new(key, tenant).model_copy(update=changes) for key in keys]
    return [(await jobs.submit(each)).job.id for each in made]


def keys(count: int, digits: str = "0123456789abcdef") -> list[str]:
    """Different keys, spread over the shards of `digits`."""
    return [digits[i % len(digits)] + f"{next(_ticks):063x}" for i in range(count)]


async def taken(jobs: JobStore, limit: int, worker: str = "w1") -> list[TakenJob]:
    return list((await jobs.take("m", worker, limit)).jobs)


def name(number: int) -> str:
    """The name of a picture's file."""
    return f"{number:064x}.png"


def record(job: NewJob, number: int = 0, **changes: Any) -> PictureRecord:
    """The record of a picture of the job, for the search index."""
    vector = struct.pack("<4e", 0.5, -0.5, 0.5, number / 1000)
    fields: dict[str, Any] = {
        "scope": job.tenant,
        "name": name(number),
        "embedding": Embedding.of(CLIP, vector),
        "created_at": 1.0,
        "expires_at": 1.0 + KEEP_S,
        "prompt": 'Ein "Apfel" ☂ \\ \n',
        "model": "m",
        "lora": "ink",
        "width": 64,
        "height": 48,
        "seed": 2**53 - 1,
        "job_id": job.id,
    }
    return PictureRecord(**{**fields, **changes})


def imported(name: str, tenant: str = "acme", caption: str = "a red apple") -> PictureRecord:
    return PictureRecord(
        scope=tenant,
        name=name,
        created_at=0.0,
        expires_at=1.0,
        source="imported",
        prompt=caption,
        width=8,
        height=9,
        origin="https://pictures.example/apple.png",
    )

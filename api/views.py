"""From job records and models to what a client sees: the view of a job has its place in the queue,
and when it may be done."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from api.catalogue import Catalogue
from api.normalise import max_images
from api.schemas import ModelView
from contracts.errors import StoreUnavailable
from contracts.jobs import CacheStatus, Job, JobStatus
from contracts.models import ServedModel
from contracts.ports.job_store import JobStore
from contracts.settings import ApiSettings
from scheduler.admission import capacity_of
from views.job import JobView, job_view

NONE: Final[Mapping[str, int]] = MappingProxyType({})
MIN_POLL_S = 1
MAX_POLL_S = 30


async def job_views(
    jobs: Sequence[Job], store: JobStore, catalogue: Catalogue, counted: Mapping[str, int] = NONE
) -> list[JobView]:
    """The views of `jobs`.

    Queue positions are extras: they are null if the store is unavailable. `counted` has the number
    of jobs ahead by job id, for jobs whose number is known already.
    """
    queued: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        if job.status is JobStatus.QUEUED and job.id not in counted:
            queued[job.request.model].append(job)
    ahead: dict[str, int] = dict(counted)
    models: dict[str, ServedModel] = {}
    if queued or counted:
        try:
            models = {served.spec.name: served for served in await catalogue.models()}
            for model, waiting in queued.items():
                ahead |= await _places(model, waiting, store)
        except StoreUnavailable:
            ahead = dict(counted)
    return [job_view(job, ahead.get(job.id), models.get(job.request.model)) for job in jobs]


async def _places(model: str, queued: Sequence[Job], store: JobStore) -> dict[str, int]:
    """The number of jobs ahead by job id.

    A job that joined another's computation has the place of that job.
    """
    joined = [job for job in queued if job.cache is CacheStatus.JOINED]
    leaders = await store.leaders([job.key for job in joined]) if joined else []
    stands_for = {job.id: leader for job, leader in zip(joined, leaders, strict=True) if leader is not None}
    _, places = await store.waiting(model, [stands_for.get(job.id, job.id) for job in queued])
    ahead: dict[str, int] = {}
    for job, place in zip(queued, places, strict=True):
        if place is not None:
            ahead[job.id] = place
        elif stands_for.get(job.id, job.id) != job.id:
            ahead[job.id] = 0  # the job that it follows waits no more
    return ahead


def poll_again_s(view: JobView) -> int:
    """After how many whole seconds a client should read the job again."""
    if view.eta_seconds is None:
        return MIN_POLL_S
    return min(MAX_POLL_S, max(MIN_POLL_S, math.ceil(view.eta_seconds)))


def model_view(served: ServedModel, catalogue: Catalogue, settings: ApiSettings) -> ModelView:
    """A model as clients see it, with its aliases."""
    spec = served.spec
    return ModelView(
        id=spec.name,
        aliases=catalogue.aliases_of(spec.name),
        created=int(min(worker.started_at for worker in served.workers)) if served.workers else None,
        owned_by="darkroom",
        description=spec.description,
        revision=spec.revision,
        dtype=spec.dtype,
        attention=spec.attention,
        default_width=spec.default_width,
        default_height=spec.default_height,
        size_multiple=spec.size_multiple,
        min_size=spec.min_size,
        max_size=spec.max_size,
        max_pixels=spec.max_pixels,
        default_num_inference_steps=spec.default_steps,
        max_num_inference_steps=spec.max_steps,
        refused_num_inference_steps=list(spec.refused_steps),
        default_guidance_scale=spec.default_guidance_scale,
        max_guidance_scale=spec.max_guidance_scale,
        max_prompt_tokens=spec.max_prompt_tokens,
        init_images=spec.init_images,
        loras=[adapter.name for adapter in spec.loras],
        max_num_images=max_images(spec, settings),
        live_workers=len(served.workers),
        images_per_s=round(
            capacity_of(served.workers).steps_per_s / spec.step_counts.of(spec.default_steps), 3
        ),
    )

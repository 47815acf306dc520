"""Submitting and canceling: the way of a job from a checked body to the broker, and what to undo when a step fails.

From the first step that would have to be undone each runs as a task of its own that the client cannot cancel: one that hangs up
between the record and the publish must not leave a job behind that is neither queued nor refused.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from api.background import Background
from api.catalogue import Catalogue
from api.idempotency import Copies, Slot, mark_replayed
from api.idempotency import slot as slot_of
from api.init_image import InitImage, read
from api.keyring import Principal
from api.normalise import checked_model_name, normalise
from api.pictures.decoders import Decoders
from api.quotas import Quotas
from api.room import Room
from api.schemas import JobRequest
from api.usage import Usage
from api.wait import unless_gone
from api.webhook import checked_webhook
from broker.relay import publish_all
from cache.keys import private_key, request_key, result_address, tenant_scope
from cache.stores import Stores
from contracts.clock import Clock
from contracts.errors import (
    DarkroomError,
    ModelUnavailable,
    QueueFull,
    StoreFull,
    StoreUnavailable,
    UnavailableError,
)
from contracts.ids import new_job_id
from contracts.jobs import (
    MAX_SEED,
    CacheStatus,
    GenerationRequest,
    Job,
    JobMessage,
    JobResult,
    NewJob,
    Origin,
)
from contracts.models import ServedModel
from contracts.ports import Publisher
from contracts.settings import ApiSettings
from contracts.tenancy import Charge
from scheduler.admission import Admitted, admit, capacity_of
from scheduler.fairness import cost_of, flow_of, weight_of
from telemetry import metrics, tracing
from telemetry.logs import bound_field, get_logger

T = TypeVar("T")

COUNT_AGAIN_S: Final = 0.25
MAX_COUNTS: Final = 10_000
"""Flows whose place in the queue is remembered between requests."""
COME_BACK_S: Final = 10.0

MAX_PLANS: Final = 4096
MAX_PLAN_CHARS: Final = 1000
"""Plans of longer texts are made anew each time, which bounds the memory of all."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a body comes to: the request to compute, its key, where its result is kept, and its cost."""

    served: ServedModel
    request: GenerationRequest
    key: str
    address: str
    cost: float
    init: InitImage | None = None
    """The picture to start from; it is stored with the job, where that is to be computed. The key's rate has been charged for it."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """The job that a body asks for, by its plan."""

    plan: _Plan
    new: NewJob


class JobService:
    """Accepts and cancels jobs. `drain` before the process ends."""

    def __init__(
        self,
        settings: ApiSettings,
        stores: Stores,
        publisher: Publisher,
        catalogue: Catalogue,
        usage: Usage,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._stores = stores
        self._publisher = publisher
        self._catalogue = catalogue
        self._usage = usage
        self._clock = clock
        self.room = Room(stores.room, settings, clock)
        self._background = Background()
        self._quotas = Quotas(stores.quotas, stores.jobs)
        self._ahead: dict[tuple[str, str], tuple[float, int]] = {}
        self._copies = Copies()
        self._plans: OrderedDict[tuple[str, JobRequest], _Plan] = OrderedDict()
        self._decoders = Decoders(settings)

    async def submit(
        self,
        caller: Principal,
        body: JobRequest,
        idempotency_key: str | None = None,
        gone: asyncio.Future[None] | None = None,
    ) -> Job:
        """Record the job and, where it leads its key, publish it: a returned job is accepted for good.

        With an idempotency key that the tenant used before, the job of then; `caller.headers` says so. `gone` is done when the
        client leaves: its picture to start from is then not decoded, and `ClientDisconnect` raised.
        Raises `RequestError` or `UnavailableError`; then nothing is left that anybody waits for, unless there is an
        idempotency key: a job whose message could not be published then stays for the next copy, or the relay.
        """
        slot = slot_of(caller.tenant, idempotency_key, body)
        try:
            if slot is None:
                asked = await self._asked(caller, body, gone)
                result = await self._looked_up(asked.new, asked.plan.address)
                if result is not None and not caller.limited:
                    # One step, in nobody's way and with nothing to undo: it needs no task.
                    return await self._record_hit(caller, asked.new, result)
                return await self._background.whole(self._accept(caller, asked.plan, asked.new, result, None))
            return await self._copies.shared(
                slot,
                caller,
                gone,
                lambda all_gone: self._background.start(self._submit_once(caller, body, slot, all_gone)),
            )
        except DarkroomError as error:
            metrics.JOBS_REFUSED.labels(error.code).inc()
            self._usage.refused(caller.tenant)
            raise

    async def cancel(self, tenant: str, job_id: str) -> Job:
        """End the job `canceled` unless it has ended already. Raises `JobNotFound`, `JobGone`, `StoreUnavailable`."""
        return await self._background.whole(self._cancel(tenant, job_id))

    async def drain(self) -> None:
        """Wait until all that was begun is done. Bounded: every step of it is."""
        await self._background.drain()
        await self._decoders.close()

    async def _submit_once(
        self, caller: Principal, body: JobRequest, slot: Slot, gone: asyncio.Future[None]
    ) -> Job:
        if (earlier := await slot.replay(caller, self._stores)) is not None:
            return earlier
        asked = await self._asked(caller, body, gone)
        plan, address = asked.plan, asked.plan.address
        new = await slot.reserve(caller, self._stores, asked.new)
        if isinstance(new, Job):
            return new
        if new != asked.new:
            mark_replayed(caller)
            scope = tenant_scope(caller.tenant, self._settings.share_cache_between_tenants)
            address = result_address(new.key, new.request, scope)
        if new is asked.new:
            self.room.reserved(new, 1)
        job = await self._accept(caller, plan, new, await self._looked_up(new, address), slot)
        if new is asked.new:
            self.room.reserved(new, -1)  # it was the first, so it alone takes back what it has counted
        return job

    async def _asked(self, caller: Principal, body: JobRequest, gone: asyncio.Future[None] | None) -> _Asked:
        """The job that `body` asks for. Leaves nothing behind but the charge for a picture to start from."""
        self.room.require(caller.tenant)
        priority = caller.priority(body.priority)
        webhook = checked_webhook(body.webhook, self._settings.webhook_allow_networks)
        plan = await self._plan(caller, body, gone)
        request = plan.request
        job_id = new_job_id(self._clock.now(), plan.key[0])
        key = private_key(plan.key, job_id) if request.cache == "off" else plan.key
        if request.cache == "refresh":
            # What has only just landed is not fresh; what is still being computed is.
            await self._stores.jobs.forget_landed([key])
        new = NewJob(
            id=job_id,
            tenant=caller.tenant,
            key=key,
            request=request,
            ttl_s=body.timeout_seconds or self._settings.job_ttl_s,
            priority=priority,
            cost=plan.cost,
            weight=weight_of(priority) * caller.weight,
            origin=Origin(request_id=bound_field("request_id"), traceparent=tracing.current()),
            webhook=webhook,
        )
        return _Asked(plan, new)

    async def _record_hit(self, caller: Principal, new: NewJob, result: JobResult) -> Job:
        with tracing.span("record job", attributes={"darkroom.job_id": new.id}):
            submitted = await self._stores.jobs.submit(new, result)
        return self._accepted(caller, submitted.job)

    async def _accept(
        self, caller: Principal, plan: _Plan, new: NewJob, result: JobResult | None, slot: Slot | None
    ) -> Job:
        # Should the answer to this be lost on its way, the outbox publishes the job by itself; the client, told 503,
        # comes again with the same key and joins it.
        with tracing.span("admit"):
            refusal = None if result else await self._refusal(plan.served, new)
        charge = Charge(new.id, new.request.num_images, computed=result is None, repeats=slot is not None)
        await self._quotas.admit(caller, charge, charge_rate=plan.init is None)
        try:
            if plan.init is not None and result is None and refusal is None:
                # Before the record: whoever runs the job must find it.
                await self._stores.blobs.put(plan.init.data, "png", is_input=True)
            with tracing.span("record job", attributes={"darkroom.job_id": new.id}):
                submitted = await self._stores.jobs.submit(new, result, may_lead=refusal is None)
        except QueueFull:
            # What costs no computation would have been welcome.
            await self._quotas.refund(caller, charge)
            raise refusal or QueueFull("No more computations are taken.") from None
        except StoreFull:
            await self._quotas.refund(caller, charge)
            raise
        job = submitted.job
        if submitted.lead:
            job = await self._publish(job, caller, charge)
        if slot is not None:
            await slot.complete(self._stores.idempotency, new)
        return self._accepted(caller, job, repeats=slot is not None)

    def _accepted(self, caller: Principal, job: Job, *, repeats: bool = False) -> Job:
        self.room.note(job, repeats=repeats)
        self._stores.results.count(job.cache)
        steps = job.request.steps if job.cache is CacheStatus.MISS else 0
        metrics.submitted(job.request.model, job.cache.value, steps)
        self._usage.accepted(job.tenant, job.cache, job.request.num_images, steps)
        told = {"tenant": job.tenant, "key_id": caller.key_id}
        log.info("job_accepted", job_id=job.id, model=job.request.model, cache=job.cache.value, **told)
        return job

    async def _plan(self, caller: Principal, body: JobRequest, gone: asyncio.Future[None] | None) -> _Plan:
        """What `body` comes to with the model as it is now. Remembered for requests that are repeated."""
        tenant = caller.tenant
        name = None if body.model is None else checked_model_name(body.model)
        served = await self._catalogue.resolve(name)
        if body.webhook is not None:
            # It decides nothing of what is computed, and its list could not be looked up.
            body = body.model_copy(update={"webhook": None})
        if body.init_image is not None:
            return await unless_gone(gone, self._plan_from(caller, body, body.init_image, served))
        known = self._plans.get((tenant, body))
        if known is not None and known.served is served:
            return known
        if known is not None and known.served.spec == served.spec:
            known = self._plans[tenant, body] = replace(known, served=served)
            return known
        spec = served.spec
        scope = tenant_scope(tenant, self._settings.share_cache_between_tenants)
        request = normalise(
            body, spec, self._settings, scope=scope, random_seed=lambda: secrets.randbelow(MAX_SEED + 1)
        )
        key = request_key(request, spec, scope)
        plan = _Plan(served, request, key, result_address(key, request, scope), cost_of(request, spec))
        texts = len(body.prompt) + len(body.negative_prompt or "")
        if body.seed != "random" and texts <= MAX_PLAN_CHARS:
            self._plans[tenant, body] = plan
            if len(self._plans) > MAX_PLANS:
                self._plans.popitem(last=False)
        return plan

    async def _plan_from(self, caller: Principal, body: JobRequest, text: str, served: ServedModel) -> _Plan:
        """As `_plan`, for a body with a picture to start from, which is too large to be remembered. It is decoded once all the rest is
        known to be right, and the key's rate is charged."""
        spec, settings = served.spec, self._settings
        scope = tenant_scope(caller.tenant, settings.share_cache_between_tenants)
        seed = secrets.randbelow(MAX_SEED + 1)
        checked = normalise(body, spec, settings, scope=scope, random_seed=lambda: seed)
        source = read(
            text, max_bytes=settings.max_init_image_bytes, max_pixels=settings.max_init_image_pixels
        )
        await self._quotas.charge_rate(caller)
        init = await self._decoders.prepare(caller.tenant, source, checked.width, checked.height)
        request = normalise(
            body, spec, settings, scope=scope, random_seed=lambda: seed, init_image=init.name
        ).model_copy(update={"warnings": init.warnings})
        key = request_key(request, spec, scope)
        address = result_address(key, request, scope)
        return _Plan(served, request, key, address, cost_of(request, spec), init)

    async def _refusal(self, served: ServedModel, new: NewJob) -> UnavailableError | None:
        """Why another computation of the model cannot be promised, if it cannot: nobody serves it, nor has lately, or it would
        not end in time behind the jobs that are ahead of it, by a count at most `COUNT_AGAIN_S` old."""
        model = served.spec.name
        if not (served.workers or served.awaited or self._settings.scale_from_zero):
            return ModelUnavailable(
                f"No worker serves {model} now.", retry_after_s=COME_BACK_S, param="model"
            )
        place = model, flow_of(new.tenant, new.priority)
        now = self._clock.monotonic()
        counted_at, ahead = self._ahead.get(place, (-math.inf, 0))
        if now - counted_at >= COUNT_AGAIN_S:
            if len(self._ahead) > MAX_COUNTS:
                self._ahead.clear()
            # Noted first, so that one request counts for all that come meanwhile.
            self._ahead[place] = (now, ahead)
            ahead = await self._stores.jobs.ahead(*place)
            self._ahead[place] = (now, ahead)
        verdict = admit(ahead, new.request.steps, capacity_of(served.workers), new.ttl_s)
        if isinstance(verdict, Admitted):
            return None
        return QueueFull(
            f"The queue is too long: the picture would take about {verdict.wait_s:.0f} s.",
            retry_after_s=verdict.retry_after_s,
        )

    async def _looked_up(self, new: NewJob, address: str) -> JobResult | None:
        with tracing.span("look up in cache"):
            return await self._cached(address) if new.request.cache == "use" else None

    async def _cached(self, address: str) -> JobResult | None:
        """The cached result, if all its pictures are still there. A cache that is away is a miss."""
        try:
            result = await self._stores.results.get(address)
            if result is None:
                return None
            for image in result.images:
                if not await self._stores.blobs.exists(image.name):
                    await self._stores.results.delete(address)
                    return None
        except StoreUnavailable:
            metrics.REPAIRED.labels("cache_lookup").inc()
            return None
        return result

    async def _publish(self, job: Job, caller: Principal, charge: Charge) -> Job:
        try:
            await self._publisher.publish(job.message())
        except UnavailableError as error:
            if charge.repeats:
                # A copy of the request, in another process, may have published it and said so: it must stay.
                raise
            return await self._take_back(job, error, caller, charge)
        try:
            await self._stores.jobs.confirm(job.id)
        except StoreUnavailable:
            # It stays in the outbox and is published twice; the worker's claim takes it once.
            metrics.REPAIRED.labels("confirm").inc()
        return job

    async def _take_back(self, job: Job, error: UnavailableError, caller: Principal, charge: Charge) -> Job:
        log.warning("publish_failed", job_id=job.id, code=error.code)
        try:
            finished = await self._stores.jobs.withdraw(job.id)
            if not finished.applied:
                # The message did arrive, and a worker was quicker: the job lives.
                return await self._stores.jobs.get(job.tenant, job.id)
        except DarkroomError:
            # The relay will publish it; the client comes again and joins it.
            metrics.REPAIRED.labels("withdraw").inc()
            raise error from None
        self._later(finished.promoted, "withdrawn")
        await self._quotas.refund(caller, charge)
        raise error

    async def _cancel(self, tenant: str, job_id: str) -> Job:
        job, finished = await self._stores.jobs.cancel(tenant, job_id)
        self._later(finished.promoted, "canceled")
        return job

    def _later(self, promoted: Sequence[JobMessage], reason: str) -> None:
        # Not the client's business: it must not wait for other people's jobs. What fails is left to the outbox.
        if promoted:
            self._background.start(publish_all(self._stores.jobs, self._publisher, promoted, reason))

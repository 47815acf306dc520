"""Submitting and canceling: the steps of a job from a checked body to the broker. The module of
each step says what it does, and how it is undone.

From the record on, the steps run as a task that the client cannot cancel. Otherwise a client that
leaves between the record and the publish would leave a job that is neither queued nor refused.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from api.admission import Bound, bound
from api.background import Background
from api.catalogue import Catalogue
from api.end_listener import EndListener
from api.idempotency import Copies, Slot, mark_replayed
from api.idempotency import slot as slot_of
from api.job_request import JobRequest
from api.keyring import Principal
from api.lookup import Under, checked, looked_up, remembered
from api.moderation import PromptJudge
from api.outbox import Outbox
from api.pictures.decoders import Decoders
from api.plan import Plan
from api.planner import Planner
from api.quotas import Quotas, nothing_left
from api.search import SearchClient
from api.similar import SimilarAnswers
from api.store_quota import Room
from api.usage import Usage
from api.webhook_validation import checked_webhook
from cache.cache_key import private_key, result_address, tenant_scope
from contracts.errors import DarkroomError, StoreUnavailable
from contracts.ids import new_job_id
from contracts.jobs import CacheStatus, Job, JobResult, NewJob, Origin
from contracts.ports.clock import Clock
from contracts.ports.publisher import Publisher
from contracts.settings import ApiSettings
from contracts.tenancy import Charge
from contracts.transitions import Found, Submission, Submitted
from scheduler.fairness import flow_of, weight_of
from store.stores import Stores
from telemetry import metrics, tracing
from telemetry.logs import bound_field, get_logger

NO_PREVIEWS = "previews: none are shown, because a content policy looks at finished images first."

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A job before it is recorded, and its plan."""

    plan: Plan
    new: NewJob
    address: str
    """The address of its result in the cache."""

    @property
    def cached(self) -> bool:
        """Whether a cached result may answer it."""
        return self.new.request.cache == "use"


class Accepted(NamedTuple):
    """A job that was accepted.

    `ahead` is how many jobs were ahead of it when it was recorded; None: they were not counted.
    """

    job: Job
    ahead: int | None = None


class JobService:
    """Accepts and cancels jobs. `drain` before the process ends."""

    def __init__(
        self,
        settings: ApiSettings,
        stores: Stores,
        publisher: Publisher,
        catalogue: Catalogue,
        usage: Usage,
        decoders: Decoders,
        prompts: PromptJudge,
        search: SearchClient,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._stores = stores
        self._usage = usage
        self._clock = clock
        self._prompts = prompts
        self.room = Room(stores.room, settings, clock)
        self._background = Background()
        self.quotas = Quotas(stores.quotas, stores.jobs)
        self._planner = Planner(settings, catalogue, self.quotas, decoders, prompts)
        self._outbox = Outbox(stores.jobs, publisher, self._background, settings.redis_timeout_s)
        self._cache_apart = settings.cache_redis_url not in (None, settings.redis_url)
        """Whether the cache has its own Redis. Each request then asks it before the call that
        requests share, so a slow cache delays no others."""
        self._copies: Copies[Accepted] = Copies()
        self._similar = SimilarAnswers(settings, stores, search, prompts)

    async def submit(
        self,
        caller: Principal,
        body: JobRequest,
        idempotency_key: str | None = None,
        gone: asyncio.Future[None] | None = None,
        listener: EndListener | None = None,
    ) -> Accepted:
        """Record the job and, if it leads its key, publish its message. A returned job is accepted
        for good.

        With an idempotency key that the tenant has used before, this returns the job of that
        request, and `caller.headers` says so. `gone` is done when the client leaves; its init image
        is then not decoded, and `ClientDisconnect` raised. A `listener` listens from before the
        record on. It does not listen for a job that existed before or that the cache answered.

        Raises `RequestError` or `UnavailableError`. No job is left then, unless there is an
        idempotency key: a job whose message could not be published stays for the next copy of the
        request, or for the sweeper.
        """
        slot = slot_of(caller.tenant, idempotency_key, body)
        try:
            if slot is None:
                accepted = await self._submit(caller, await self._draft(caller, body, gone), listener)
            else:
                accepted = await self._copies.shared(
                    slot,
                    caller,
                    gone,
                    lambda all_gone: self._background.start(
                        self._submit_once(caller, body, slot, all_gone, listener)
                    ),
                )
        except DarkroomError as error:
            metrics.JOBS_REFUSED.labels(error.code).inc()
            self._usage.refused(caller.tenant)
            raise
        if listener is not None:
            listener.note(accepted.job)
        return accepted

    async def cancel(self, tenant: str, job_id: str) -> Job:
        """Cancel the job, unless it has ended already, and return it.

        Raises `JobNotFound`, `JobGone`, `StoreUnavailable`.
        """
        return await self._background.whole(self._cancel(tenant, job_id))

    async def drain(self) -> None:
        """Wait until all tasks are done. This ends, because every step of theirs is bounded."""
        self._outbox.end()
        await self._background.drain()

    async def _draft(self, caller: Principal, body: JobRequest, gone: asyncio.Future[None] | None) -> _Draft:
        """The job that `body` asks for."""
        self.room.require(caller.tenant)
        priority = caller.priority(body.priority)
        webhook = checked_webhook(body.webhook, self._settings.webhook_allow_networks)
        plan = await self._planner.plan(caller, body, gone)
        job_id = new_job_id(self._clock.now(), plan.key[0])
        key = private_key(plan.key, job_id) if plan.request.cache == "off" else plan.key
        if plan.request.cache == "refresh":
            # A result that was just completed does not count as fresh. One that is still being computed does.
            await self._stores.jobs.forget_landed([key])
        request = plan.request
        if request.previews and self._prompts.policy is not None:
            # A preview would be seen before the verdict.
            warned = (*request.warnings, NO_PREVIEWS)
            request = request.model_copy(update={"previews": 0, "warnings": warned})
        new = NewJob(
            id=job_id,
            tenant=caller.tenant,
            key=key,
            request=request,
            ttl_s=body.timeout_seconds or self._settings.job_ttl_s,
            priority=priority,
            cost=plan.cost,
            weight=weight_of(priority) * caller.weight,
            origin=Origin(
                request_id=bound_field("request_id"),
                traceparent=tracing.current(),
                # Also without a policy here: a worker may have one, and blocked images are given back.
                key_id=caller.charged_key_id,
            ),
            webhook=webhook,
        )
        return _Draft(plan, new, plan.address)

    async def _submit(self, caller: Principal, draft: _Draft, listener: EndListener | None) -> Accepted:
        under = self._under(caller.tenant)
        result = await remembered(self._stores, draft.address, under) if draft.cached else None
        if result is not None and not caller.limited:
            # A single step with nothing to undo: it needs no task.
            submitted = await self._outbox.hit(draft.new, result)
            return self._accepted(caller, Accepted(submitted.job))
        return await self._background.whole(self._accept(caller, draft, result, None, listener))

    async def _submit_once(
        self,
        caller: Principal,
        body: JobRequest,
        slot: Slot,
        gone: asyncio.Future[None],
        listener: EndListener | None,
    ) -> Accepted:
        """As `_submit`, under an `Idempotency-Key`: every copy records the job of the first."""
        if (earlier := await slot.replay(caller, self._stores)) is not None:
            return Accepted(earlier)
        draft = await self._draft(caller, body, gone)
        new = await slot.reserve(caller, self._stores, draft.new)
        if isinstance(new, Job):
            return Accepted(new)
        if first := new is draft.new:
            self.room.reserved(new, 1)
        elif new != draft.new:
            mark_replayed(caller)
            scope = tenant_scope(caller.tenant, self._settings.share_cache_between_tenants)
            draft = _Draft(draft.plan, new, result_address(new.key, new.request, scope))
        accepted = await self._accept(caller, draft, None, slot, listener)
        if first:
            self.room.reserved(new, -1)  # only the copy that counted it takes it back
        return accepted

    async def _accept(
        self,
        caller: Principal,
        draft: _Draft,
        result: JobResult | None,
        slot: Slot | None,
        listener: EndListener | None,
    ) -> Accepted:
        """Admission, charge, init image, record, message.

        If the store's answer to the record is lost, the client gets a 503 and the sweeper publishes
        the job. The client comes again with the same request, and joins it.
        """
        new, init, repeats = draft.new, draft.plan.init, slot is not None
        similar = new.request.similar is not None
        limit = bound(
            draft.plan.served, new.request.steps, new.ttl_s, scale_from_zero=self._settings.scale_from_zero
        )
        early = caller.limited or init is not None or self._cache_apart or similar
        if result is None and draft.cached and early:
            # The charge depends on this, and whether the init image is stored. The call that
            # records the job looks again, because the result may arrive in between. If the cache
            # has its own Redis, such a result is still in the job store.
            result = await looked_up(self._stores, draft.address, self._under(new.tenant))
        if result is None and similar:
            new, result = await self._similar.find(new, draft.plan, draft.address, self._under(new.tenant))
            draft = replace(draft, new=new)
        charge = Charge(new.id, new.request.num_images, computed=result is None, repeats=repeats)
        async with self.quotas.charged(caller, charge, charge_rate=init is None):
            if init is not None and result is None:
                with nothing_left(unless=repeats):
                    flow = flow_of(new.tenant, new.priority)
                    limit = limit.behind(await self._stores.jobs.ahead(new.request.model, flow))
                    if limit.most_ahead >= 0:
                        # Before the record: a worker that runs the job must find it.
                        await self._stores.blobs.put(init.data, "png", is_input=True)
            if listener is not None and result is None:
                with suppress(StoreUnavailable):  # without a listener, the job is read at its end
                    await listener.listen(new.id)
            if result is None:
                submitted = await self._recorded(draft, limit, look_up=draft.cached and not self._cache_apart)
            else:
                submitted = await self._outbox.record_hit(new, result)
            job = await self._outbox.publish(submitted, repeats=repeats)
        if slot is not None:
            await slot.complete(self._stores.idempotency, new)
        return self._accepted(caller, Accepted(job, submitted.ahead), repeats=repeats)

    async def _recorded(self, draft: _Draft, limit: Bound, *, look_up: bool) -> Submitted:
        """The recorded job. With `look_up`, the call that records it also looks up its result."""
        results, submission = self._stores.results, Submission(draft.new, None, limit.most_ahead)
        if look_up:
            submission = replace(submission, address=draft.address)
        remember = results.watch(draft.address)
        while isinstance(answer := await self._outbox.record(submission, limit.refusal), Found):
            under = self._under(draft.new.tenant)
            result = await checked(self._stores, draft.address, answer.result, under)
            if result is not None:
                remember(result)
                return await self._outbox.record_hit(draft.new, result)
            submission = replace(submission, address=None)
        return answer

    def _under(self, tenant: str) -> Under:
        """What a cached result must pass."""
        policy = self._prompts.policy
        return Under(None if policy is None else policy.policy, tenant)

    def _accepted(self, caller: Principal, accepted: Accepted, *, repeats: bool = False) -> Accepted:
        """Count and log the job."""
        job = accepted.job
        self.room.note(job, repeats=repeats)
        self._stores.results.count(job.cache)
        steps = job.request.steps if job.cache is CacheStatus.MISS else 0
        metrics.submitted(job.request.model, job.cache.value, steps)
        self._usage.accepted(job.tenant, job.cache, job.request.num_images, steps)
        owner = {"tenant": job.tenant, "key_id": caller.key_id}
        log.info("job_accepted", job_id=job.id, model=job.request.model, cache=job.cache.value, **owner)
        return accepted

    async def _cancel(self, tenant: str, job_id: str) -> Job:
        job, finished = await self._stores.jobs.cancel(tenant, job_id)
        self._outbox.publish_later(finished.promoted, "canceled")
        return job

"""The outbox of webhooks in memory: the twin of the `hook_*` scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cache.memory_records import STEP_S
from cache.webhooks import GONE_S, delivery_of, new_secret
from contracts.clock import Clock
from contracts.ids import SHARDS, shard_of
from contracts.jobs import Job
from contracts.webhooks import Attempt, Call, Delivery, DeliveryStatus, Duty, Secret, Webhook, event_of

KEEP_S: Final = 4 * 86_400.0  # as in lua/prelude.lua


@dataclass(slots=True)
class _Hook:
    job: Job
    webhook: Webhook
    event: str
    owed_at: float
    due_at: float
    next_at: float | None
    until: float = 0.0
    status: DeliveryStatus = DeliveryStatus.PENDING
    log: list[str] = field(default_factory=list)


class MemoryWebhookStore:
    """The `WebhookStore` in memory. The job store calls `owe` in the step that ends a job."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._hooks: dict[str, _Hook] = {}
        self._gone: dict[tuple[str, str], float] = {}
        self._kept: dict[str, list[Secret]] = {}
        self._listeners: set[asyncio.Queue[str]] = set()
        self.read: Callable[[str, str], Awaitable[Job]]
        """How to read a job; set by whoever wires the stores."""

    def owe(self, job: Job) -> None:
        """The job has just ended."""
        event = event_of(job.status)
        if job.webhook is None or event not in job.webhook.events:
            return
        now = self._clock.now()
        self._hooks[job.id] = _Hook(job, job.webhook, event, owed_at=now, due_at=now, next_at=now)
        for queue in self._listeners:
            queue.put_nowait(shard_of(job.id))

    def keep_s(self, job_id: str) -> float:
        """How long the record of an ended job is kept on the duty's account, in seconds."""
        return KEEP_S if job_id in self._hooks else 0.0

    def shift(self, shard: str, step_s: float, since: float) -> None:
        """The clock was set by `step_s` seconds; what is later than `since` may have been written after that."""
        now = self._clock.now()
        for job_id, hook in self._pending():
            early = hook.due_at > now if step_s < 0 else since + STEP_S - step_s < hook.due_at < since
            if shard_of(job_id) == shard and early:
                hook.due_at = max(now, hook.due_at + step_s)
                hook.next_at = None if hook.next_at is None else hook.due_at
                hook.until = hook.due_at if hook.until else 0.0

    shards: Sequence[str] = SHARDS

    async def take(self, shard: str, limit: int, lease_s: float) -> Sequence[Call]:
        now = self._clock.now()
        due = [i for i, hook in self._pending() if shard_of(i) == shard and hook.due_at <= now]
        due.sort(key=lambda i: self._hooks[i].due_at)
        for job_id in due[:limit]:
            self._hooks[job_id].due_at = now + lease_s
        return [Call(job_id=i, attempt=len(self._hooks[i].log) + 1) for i in due[:limit]]

    async def begin(self, call: Call, lease_s: float) -> Duty | None:
        hook, now = self._fenced(call), self._clock.now()
        if hook is None or hook.until > now:
            return None
        hook.until = hook.due_at = now + lease_s
        return Duty(call=call, job=hook.job, webhook=hook.webhook, owed_at=hook.owed_at)

    async def settle(
        self, call: Call, attempt: Attempt, status: DeliveryStatus, next_in_s: float | None
    ) -> bool:
        hook = self._fenced(call)
        if hook is None:
            return False
        hook.log.append(attempt.model_dump_json())
        hook.status, hook.until, hook.next_at = status, 0.0, None
        if status is DeliveryStatus.PENDING:
            hook.next_at = hook.due_at = self._clock.now() + (next_in_s or 0.0)
        return True

    async def defer(self, call: Call, seconds: float) -> None:
        hook = self._fenced(call)
        if hook is not None:
            hook.until, hook.due_at = 0.0, self._clock.now() + seconds

    async def get(self, tenant: str, job_id: str) -> Delivery:
        job = await self.read(tenant, job_id)
        hook = self._hooks.get(job_id)
        if hook is None:
            return delivery_of(job, {}, ())
        stored = {"event": hook.event, "status": hook.status.value}
        if hook.next_at is not None:
            stored["next_at"] = str(hook.next_at)
        return delivery_of(job, stored, hook.log)

    async def due(self) -> int:
        return sum(hook.due_at <= self._clock.now() for _, hook in self._pending())

    async def wakes(self) -> AsyncIterator[str]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    async def disable(self, tenant: str, url: str) -> None:
        self._gone[tenant, url] = self._clock.now() + GONE_S

    async def disabled(self, tenant: str, url: str) -> bool:
        return self._gone.get((tenant, url), 0.0) > self._clock.now()

    async def secrets(self, tenant: str) -> Sequence[Secret]:
        now = self._clock.now()
        kept = [s for s in self._kept.get(tenant, ()) if s.expires_at is None or s.expires_at > now]
        self._kept[tenant] = kept or [Secret(value=new_secret(), created_at=now)]
        return list(self._kept[tenant])

    async def rotate(self, tenant: str, overlap_s: float) -> Sequence[Secret]:
        now = self._clock.now()
        current, *_ = await self.secrets(tenant) if tenant in self._kept else (None,)
        kept = [Secret(value=new_secret(), created_at=now)]
        if current is not None:
            kept.append(current.model_copy(update={"expires_at": now + overlap_s}))
        self._kept[tenant] = kept
        return list(kept)

    def _pending(self) -> list[tuple[str, _Hook]]:
        return [(i, hook) for i, hook in self._hooks.items() if hook.status is DeliveryStatus.PENDING]

    def _fenced(self, call: Call) -> _Hook | None:
        hook = self._hooks.get(call.job_id)
        if hook is None or hook.status is not DeliveryStatus.PENDING or len(hook.log) + 1 != call.attempt:
            return None
        return hook

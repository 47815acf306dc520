"""The outbox of webhooks in Redis, and the secrets that sign them. `lua/record.lua` records each
duty together with the job's end."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Final

from pydantic import TypeAdapter
from redis.asyncio import Redis

from backends.pubsub import messages
from contracts import ids
from contracts.errors import JobNotFound
from contracts.jobs import Job
from contracts.ports.clock import Clock
from contracts.settings import BackendSettings
from contracts.webhooks import SECRET_PREFIX, Attempt, Call, Delivery, DeliveryStatus, Duty, Secret
from store.jobs import absent
from store.key_names import PREFIX
from store.layout import LayoutGuard
from store.outbox import RedisOutbox
from store.records import job_of, paired

GONE_S: Final = 3 * 86_400.0
"""Seconds without calls to a receiver that has answered 410. By then every duty to it has
lapsed."""
_SECRETS: Final = TypeAdapter(list[Secret])


def new_secret() -> str:
    """A new secret: `whsec_` and 32 random bytes in base64."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode("ascii")


def delivery_of(job: Job, hook: dict[str, str], log: Sequence[str]) -> Delivery:
    """The delivery of a job's event, from the stored hash and log."""
    next_at = hook.get("next_at")
    return Delivery(
        webhook=job.webhook,
        event=hook.get("event"),
        status=DeliveryStatus(hook["status"]) if hook else None,
        attempts=tuple(Attempt.model_validate_json(entry) for entry in log),
        next_attempt_at=None if next_at is None else float(next_at),
        round=int(hook.get("round", 0)),
    )


class RedisWebhookStore(RedisOutbox):
    """The `WebhookStore` on one Redis server or cluster. `skew_s` shifts its clock by seconds; for
    tests only."""

    def __init__(self, client: Redis, settings: BackendSettings, clock: Clock, guard: LayoutGuard) -> None:
        super().__init__(client, settings, guard, "webhook store")
        self._settings = settings
        self._clock = clock

    async def take(self, shard: str, limit: int, lease_s: float) -> Sequence[Call]:
        """Up to `limit` calls of the shard that are due, oldest first. They are due again after
        `lease_s` seconds."""
        calls = await self._run("hook_take", self._layout.prefix(shard), limit, lease_s)
        return [Call(job_id=job_id, attempt=attempt) for job_id, attempt in calls]

    async def begin(self, call: Call, lease_s: float) -> Duty | None:
        """Grant the attempt for `lease_s` seconds; None: it must not be made. Raises
        `RecordUnreadable`, `StoreUnavailable`."""
        answer = await self._on_shard("hook_begin", call, lease_s)
        if not answer:
            return None
        job = job_of(paired(answer[1]))
        if job.webhook is None:
            raise AssertionError(job.id)
        owed_at, _, event, round_, base = answer
        return Duty(
            call=call,
            job=job,
            webhook=job.webhook,
            owed_at=float(owed_at),
            event=event,
            round=round_,
            attempt=call.attempt - base,
        )

    async def settle(
        self, call: Call, attempt: Attempt, status: DeliveryStatus, next_in_s: float | None
    ) -> bool:
        """Log the attempt and its outcome. Answers whether the attempt was still ours."""
        entry = attempt.model_dump_json(exclude_none=True)
        return bool(await self._on_shard("hook_settle", call, entry, status.value, next_in_s or 0.0))

    async def defer(self, call: Call, seconds: float) -> None:
        """Give an attempt back uncounted. It is due again in `seconds`."""
        await self._on_shard("hook_defer", call, seconds)

    async def get(self, tenant: str, job_id: str) -> Delivery:
        """The delivery of the tenant's job. Raises `JobNotFound`, `JobGone`, `RecordUnreadable`,
        `StoreUnavailable`."""
        prefix = self._layout.job_prefix(job_id)
        record = paired(await self._run("read", prefix, job_id, tenant))
        if not record:
            raise absent(job_id, self._clock.now() + self.skew_s, self._settings.job_retention_s)
        if record["status"] == "withdrawn":
            raise JobNotFound("There is no such job.")
        async with self._store_errors(), self._client.pipeline(transaction=True) as pipeline:
            pipeline.hgetall(f"{prefix}hook:{job_id}")
            pipeline.lrange(f"{prefix}hooklog:{job_id}", 0, -1)
            hook, log = await pipeline.execute()
        return delivery_of(job_of(record), hook, log)

    async def due(self) -> int:
        """How many duties are due now and not taken."""
        async with self._store_errors():
            now_s, microseconds = await self._client.time()
            now = now_s + microseconds / 1e6 + self.skew_s
            async with self._client.pipeline(transaction=False) as pipeline:
                for prefix in self._layout.prefixes:
                    pipeline.zcount(f"{prefix}hooks", "-inf", now)
                return sum(await pipeline.execute())

    async def wakes(self) -> AsyncIterator[str]:
        """Shards on which a webhook has just become due, until the connection is lost."""
        channels = [f"{prefix}hooks" for prefix in self._layout.prefixes]
        timeout_s = self._settings.redis_timeout_s
        async with aclosing(messages(self._client, channels, "webhook store", timeout_s)) as job_ids:
            async for job_id in job_ids:
                yield self._layout.name(ids.shard_of(job_id))

    async def disable(self, tenant: str, url: str) -> None:
        """Send no more webhooks of the tenant to the URL, for `GONE_S` seconds."""
        async with self._store_errors():
            await self._client.set(_gone_key(tenant, url), "1", ex=int(GONE_S))

    async def disabled(self, tenant: str, url: str) -> bool:
        """Whether the tenant's webhooks to the URL are disabled."""
        async with self._store_errors():
            return bool(await self._client.exists(_gone_key(tenant, url)))

    async def secrets(self, tenant: str) -> Sequence[Secret]:
        """The tenant's secrets, the current one first. The first call makes one."""
        return await self._secrets(tenant, "0", 0.0)

    async def rotate(self, tenant: str, overlap_s: float) -> Sequence[Secret]:
        """Make a new secret. The one before stays valid for `overlap_s` seconds. Answers both."""
        return await self._secrets(tenant, "1", overlap_s)

    async def _secrets(self, tenant: str, rotate: str, overlap_s: float) -> Sequence[Secret]:
        key = secrets_key(tenant)
        return _SECRETS.validate_json(await self._run("hook_secrets", key, new_secret(), rotate, overlap_s))

    async def _on_shard(self, name: str, call: Call, *arguments: str | float) -> Any:
        return await self._run(
            name, self._layout.job_prefix(call.job_id), call.job_id, call.attempt, *arguments
        )

    async def _run(self, name: str, key: str, *arguments: str | float) -> Any:
        return await self._scripts.run(name, key, *arguments)

    def _store_errors(self) -> Any:
        return self._guard.store_errors("webhook store")


def secrets_key(tenant: str) -> str:
    """The key of the secrets that sign the tenant's webhooks."""
    return f"{PREFIX}webhook-secrets:{tenant}"


def gone_prefix(tenant: str) -> str:
    """The prefix of the marks of the tenant's receivers that have answered 410."""
    return f"{PREFIX}webhook-gone:{tenant}:"


def _gone_key(tenant: str, url: str) -> str:
    # Only the hash of the URL, which may hold a token of the client.
    return gone_prefix(tenant) + hashlib.sha256(url.encode()).hexdigest()

"""One attempt at one webhook: from the duty that the store grants to the entry in the log of deliveries."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from contracts.errors import RecordUnreadable
from contracts.ports.clock import Clock
from contracts.ports.webhook_store import WebhookStore
from contracts.webhooks import MODERATED, Attempt, Call, DeliveryStatus, Duty, webhook_id
from duties.backoff import retry_after_s
from runtime.checked_network import CallFailed
from telemetry import metrics
from telemetry.logs import get_logger
from webhooks import sign
from webhooks.caller import Answer, Caller
from webhooks.payload import payload
from webhooks.schedule import Pacer, Verdict, after

MARGIN_S: Final = 15.0
"""A lease is this much longer than the longest attempt, in seconds."""
UNREADABLE_S: Final = 10.0
"""A call whose job only a newer version can read falls due again after this many seconds."""
USER_AGENT: Final = "Darkroom-Webhooks/1"

log = get_logger(__name__)


@dataclass(slots=True)
class Deliverer:
    """Makes attempts. All state is in the store, except the pacers': they spare slow receivers, in
    this process only.

    `timeout_s` bounds one attempt. `delays_s` are the seconds between attempts. `chance` returns a
    random number in [0, 1).
    """

    store: WebhookStore
    caller: Caller
    clock: Clock
    receivers: Pacer
    tenants: Pacer
    """Paces by tenant: one tenant may own any number of slow receivers."""
    timeout_s: float
    delays_s: Sequence[float]
    public_url: str | None = None
    chance: Callable[[], float] = random.random

    @property
    def lease_s(self) -> float:
        """How long the store grants a duty to this process, in seconds."""
        return self.timeout_s + MARGIN_S

    async def run(self, call: Call) -> None:
        """Make the attempt, if it is still due. Raises `StoreUnavailable`; the call then falls due again."""
        try:
            duty = await self.store.begin(call, self.lease_s)
        except RecordUnreadable:
            # The store has granted it all the same. It goes back uncounted, for a newer process.
            metrics.WEBHOOKS.labels("deferred").inc()
            await self.store.defer(call, UNREADABLE_S)
            return
        if duty is None:
            metrics.WEBHOOKS.labels("repeated").inc()
            return
        receiver, tenant = httpx.URL(duty.webhook.url).netloc.decode("ascii"), duty.job.tenant
        begun = self.clock.monotonic()
        wait_s = self.receivers.enter(receiver, begun)
        if wait_s is None and (wait_s := self.tenants.enter(tenant, begun)) is not None:
            self.receivers.leave(receiver)
        if wait_s is not None:
            metrics.WEBHOOKS.labels("deferred").inc()
            await self.store.defer(call, wait_s)
            return
        took_s = None
        try:
            answer = await self._attempt(duty)
            took_s = self.clock.monotonic() - begun
        finally:
            self.receivers.leave(receiver, took_s)
            self.tenants.leave(tenant, took_s)
        await self._settle(duty, answer, took_s)

    async def _attempt(self, duty: Duty) -> Answer | CallFailed | None:
        """The receiver's answer, or why there is none.

        None: the receiver was disabled before, and is not called.
        """
        if await self.store.disabled(duty.job.tenant, duty.webhook.url):
            return None
        secrets = await self.store.secrets(duty.job.tenant)
        at_s = duty.owed_at if duty.event == MODERATED else None
        body = payload(duty.job, self.public_url, duty.event, at_s)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            **sign.headers(
                [secret.value for secret in secrets],
                webhook_id(duty.job.id, duty.round),
                int(self.clock.now()),
                body,
            ),
        }
        try:
            return await self.caller.post(duty.webhook.url, headers, body)
        except CallFailed as failed:
            return failed

    async def _settle(self, duty: Duty, answer: Answer | CallFailed | None, took_s: float) -> None:
        now = self.clock.now()
        age_s = now - duty.owed_at
        status_code, error = None, None
        if answer is None:
            error, verdict = "receiver_gone", Verdict(DeliveryStatus.DISABLED)
        elif isinstance(answer, CallFailed):
            error = answer.code
            verdict = self._after(duty, None, age_s, refused=answer.refused)
        else:
            status_code = answer.status_code
            verdict = self._after(duty, status_code, age_s, retry_after_s=retry_after_s(answer.retry_after))
            if verdict.status is DeliveryStatus.DISABLED:
                await self.store.disable(duty.job.tenant, duty.webhook.url)
        attempt = Attempt(
            at=now - took_s, duration_ms=round(took_s * 1000, 1), status_code=status_code, error=error
        )
        await self.store.settle(duty.call, attempt, verdict.status, verdict.next_in_s)
        outcome = "retry" if verdict.status is DeliveryStatus.PENDING else verdict.status.value
        metrics.WEBHOOKS.labels(outcome).inc()
        metrics.WEBHOOK_SECONDS.observe(took_s)
        # The URL is not logged: it may hold a token.
        log.info(
            "webhook_attempt",
            job_id=duty.job.id,
            attempt=duty.call.attempt,
            outcome=outcome,
            status_code=status_code,
            error=error,
        )

    def _after(self, duty: Duty, status_code: int | None, age_s: float, **more: Any) -> Verdict:
        attempt, chance = duty.attempt, self.chance()
        return after(attempt, status_code, age_s=age_s, delays_s=self.delays_s, chance=chance, **more)

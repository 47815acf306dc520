"""The limits of an API key. A job is charged before it is recorded, and headers of the answer show
what is left.

The jobs of a key are not a counter, which could leak. The ledger holds the ids of admitted jobs.
Before a job is refused because of others, the job records say which of them are still live.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from api.keyring import Principal
from contracts.errors import DarkroomError, QuotaExceeded, StoreUnavailable, UnavailableError
from contracts.jobs import JobStatus
from contracts.ports.job_store import JobStore
from contracts.ports.quota_ledger import QuotaLedger
from contracts.tenancy import Account, ApiKey, Charge, Limits
from telemetry import metrics

ON_ITS_WAY_S: Final = 30.0
"""How long an admitted job may be without a record, in seconds. After that it counts as ended."""
DAY_S: Final = 86_400
LIVE: Final = ("concurrent_jobs", "queued_jobs")
"""The limits that count live jobs."""


class NothingLeft(Exception):
    """A job failed with `error` before it was accepted, and nothing of it is left. Its charge is refunded."""

    def __init__(self, error: DarkroomError) -> None:
        super().__init__(error.message)
        self.error = error


@contextmanager
def nothing_left(*, unless: bool) -> Iterator[None]:
    """A block that leaves no job behind when it fails: its `UnavailableError` becomes
    `NothingLeft`.

    Not so if a copy of the request may have left a job (`unless`).
    """
    try:
        yield
    except UnavailableError as error:
        if unless:
            raise
        raise NothingLeft(error) from None


class Quotas:
    """Admits jobs within the limits of their API keys."""

    def __init__(self, ledger: QuotaLedger, jobs: JobStore) -> None:
        self._ledger = ledger
        self._jobs = jobs
        self._settling: dict[str, asyncio.Task[None]] = {}
        self._next: dict[str, asyncio.Task[None]] = {}

    async def charge_rate(self, caller: Principal) -> None:
        """Charge only the rate limit of the caller's key, for work that comes before the job is
        known.

        A later `admit` must then not charge the rate again. Raises as `admit`.
        """
        if caller.key is not None and caller.key.limits.requests_per_minute is not None:
            await self.admit(caller, Charge("", 0, computed=False))

    async def admit(self, caller: Principal, charge: Charge, *, charge_rate: bool = True) -> None:
        """Charge the caller's key, and add what is left to the headers of the answer.

        Raises `QuotaExceeded`, `StoreUnavailable`.
        """
        key = caller.key
        if key is None or not caller.limited:
            return
        account = await self._ledger.admit(key.id, key.limits, charge, charge_rate=charge_rate)
        if account.refused in LIVE:
            await self._settled(key.id)
            account = await self._ledger.admit(key.id, key.limits, charge, charge_rate=False)
        caller.headers.update(headers(key.limits, account))
        if account.refused:
            metrics.QUOTA_REFUSED.labels(account.refused).inc()
            raise refusal(key, account, charge)

    @asynccontextmanager
    async def charged(
        self, caller: Principal, charge: Charge, *, charge_rate: bool = True
    ) -> AsyncIterator[None]:
        """As `admit`, around the block that records and publishes the job.

        If the block raises `NothingLeft`, the charge is refunded and its `error` raised. After any
        other error the job may exist, and the charge stays.
        """
        await self.admit(caller, charge, charge_rate=charge_rate)
        try:
            yield
        except NothingLeft as nothing:
            await self._refund(caller, charge)
            raise nothing.error from None

    async def _refund(self, caller: Principal, charge: Charge) -> None:
        if caller.key is None or not caller.limited:
            return
        try:
            await self._ledger.refund(caller.key.id, caller.key.limits, charge)
        except StoreUnavailable:
            # Its place is free again once it is seen to have no record. Its images stay charged for the day.
            metrics.REPAIRED.labels("refund").inc()

    async def _settled(self, key_id: str) -> None:
        """Return once the key's account was compared with job records that were read after this call."""
        # One comparison at a time for each key. All requests that came before it began share it, so
        # a client that exceeds its limit all the time costs no more than others.
        task = self._next.get(key_id)
        if task is None:
            task = asyncio.create_task(self._after(self._settling.get(key_id), key_id))
            self._next[key_id] = task
            task.add_done_callback(lambda done: self._ended(key_id, done))
        await asyncio.shield(task)

    async def _after(self, earlier: asyncio.Task[None] | None, key_id: str) -> None:
        if earlier is not None:
            await asyncio.wait({earlier})
        self._settling[key_id] = self._next.pop(key_id)
        await self._settle(key_id)

    def _ended(self, key_id: str, done: asyncio.Task[None]) -> None:
        for tasks in (self._settling, self._next):
            if tasks.get(key_id) is done:
                del tasks[key_id]
        if not done.cancelled():
            done.exception()  # known to those who waited for it, if any still do

    async def _settle(self, key_id: str) -> None:
        held = await self._ledger.held(key_id)
        statuses = await self._jobs.statuses([job_id for job_id, _ in held])
        ended: list[str] = []
        running: list[str] = []
        queued: list[str] = []
        for (job_id, age_s), status in zip(held, statuses, strict=True):
            if status is None:
                (ended if age_s > ON_ITS_WAY_S else queued).append(job_id)
            elif status.terminal:
                ended.append(job_id)
            else:
                (running if status is JobStatus.RUNNING else queued).append(job_id)
        await self._ledger.settle(key_id, ended, running, queued)


def refusal(key: ApiKey, account: Account, charge: Charge) -> QuotaExceeded:
    """The error for a `charge` that the limit `account.refused` forbids. Pure."""
    limits, limit = key.limits, account.refused
    value = getattr(limits, limit)
    message = {
        "requests_per_minute": f"This API key may submit {value:g} requests per minute.",
        "concurrent_jobs": f"This API key may have {value} jobs at once, and has {account.live}.",
        "queued_jobs": f"This API key may have {value} jobs waiting, and has {account.queued}.",
        "images_per_day": f"This API key may have {value} images per day of UTC; {max(0, value - account.images)} "
        f"are left today, and this job wants {charge.images}.",
    }[limit]
    return QuotaExceeded(
        message, details={"limit": limit, "value": value}, retry_after_s=max(account.retry_after_s, 1.0)
    )


def headers(limits: Limits, account: Account) -> dict[str, str]:
    """The headers that show what is left. Pure.

    `RateLimit` and `RateLimit-Policy` are those of draft-ietf-httpapi-ratelimit-headers-10. Most
    clients read three older headers; they show the limit that has the least left.
    """
    policies, states, nearest = [], [], []
    for name, quota, window_s, unit, left, reset_s in _standings(limits, account):
        window = f";w={window_s}" if window_s else ""
        policies.append(f'"{name}";q={quota}{window}' + (f';qu="{unit}"' if unit else ""))
        reset = f";t={reset_s}" if window_s else ""
        states.append(f'"{name}";r={left}{reset}')
        nearest.append((name != account.refused, left / quota, quota, left, reset_s))
    _, _, quota, left, reset_s = min(nearest)
    return {
        "RateLimit-Policy": ", ".join(policies),
        "RateLimit": ", ".join(states),
        "RateLimit-Limit": str(quota),
        "RateLimit-Remaining": str(left),
        "RateLimit-Reset": str(reset_s),
    }


def _standings(limits: Limits, account: Account) -> list[tuple[str, int, int, str, int, int]]:
    """For each limit: its name, quota, window in seconds, unit, what is left, and the seconds until
    all is left again."""
    standings = []
    if limits.requests_per_minute is not None:
        interval_s = 60.0 / limits.requests_per_minute
        burst = limits.burst_size
        left = max(0, int((burst * interval_s - account.full_in_s) / interval_s + 1e-6))
        window_s = max(1, math.ceil(burst * interval_s))
        standings.append(("requests_per_minute", burst, window_s, "", left, math.ceil(account.full_in_s)))
    if limits.concurrent_jobs is not None:
        left = max(0, limits.concurrent_jobs - account.live)
        standings.append(("concurrent_jobs", limits.concurrent_jobs, 0, "jobs", left, 1))
    if limits.queued_jobs is not None:
        left = max(0, limits.queued_jobs - account.queued)
        standings.append(("queued_jobs", limits.queued_jobs, 0, "jobs", left, 1))
    if limits.images_per_day is not None:
        left = max(0, limits.images_per_day - account.images)
        reset_s = math.ceil(account.day_ends_in_s)
        standings.append(("images_per_day", limits.images_per_day, DAY_S, "images", left, reset_s))
    return standings

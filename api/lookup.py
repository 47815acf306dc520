"""Looks a result up: in this process, in the result cache, or in the answer of the script that
records the job.

Where a policy of moderation is in force, a cached result is judged again by what was found when it was
drawn. One that its present version would not show is computed again, and so held or blocked.
"""

from __future__ import annotations

from dataclasses import dataclass

from contracts.errors import StoreUnavailable
from contracts.jobs import JobResult
from contracts.reviews import ReviewState
from moderation.decide import decide
from moderation.policy import Policy
from store.stores import Stores
from telemetry import metrics, tracing


@dataclass(frozen=True, slots=True)
class Under:
    """The policy that a result must pass, and the tenant that asks. `policy` None: there is none."""

    policy: Policy | None
    tenant: str


async def remembered(stores: Stores, address: str, under: Under) -> JobResult | None:
    """The result at `address`, if this process remembers it, all its images still exist, and the policy shows
    them; else None."""
    result = stores.results.peek(address)
    return None if result is None else await checked(stores, address, result, under)


async def looked_up(stores: Stores, address: str, under: Under) -> JobResult | None:
    """The cached result at `address`, if all its images still exist and the policy shows them; else None.

    An unavailable cache is a miss.
    """
    with tracing.span("look up in cache"):
        try:
            result = await stores.results.get(address)
        except StoreUnavailable:
            metrics.REPAIRED.labels("cache_lookup").inc()
            return None
        return None if result is None else await checked(stores, address, result, under)


async def checked(stores: Stores, address: str, result: JobResult, under: Under) -> JobResult | None:
    """`result`, if all its images still exist and the policy shows them.

    Else the cache forgets it, and this returns None. An unavailable store is a miss.
    """
    try:
        judged = result if under.policy is None else rejudged(result, under.policy, under.tenant)
        if judged is None:
            await stores.results.delete(address)
            return None
        result = judged
        if under.policy is not None and not await _still_released(stores, result):
            await stores.results.delete(address)
            return None
        for image in result.images:
            if not await stores.blobs.exists(image.name):
                await stores.results.delete(address)
                return None
    except StoreUnavailable:
        metrics.REPAIRED.labels("cache_lookup").inc()
        return None
    return result


async def _still_released(stores: Stores, result: JobResult) -> bool:
    """Whether the images that a review has released are so still. Raises `StoreUnavailable`."""
    asked = [
        image.decided_as
        for image in result.images
        if image.moderation is not None and image.moderation.reviewed
    ]
    past = await stores.reviews.past(asked)
    return all(name in past and past[name].state is ReviewState.RELEASED for name in asked)


def rejudged(result: JobResult, policy: Policy, tenant: str) -> JobResult | None:
    """The result with the verdicts of the present policy, by what was found before; None: it may not be
    shown, or was never judged. Pure.

    What a review has decided stays. The same object is answered where nothing has changed.
    """
    images = []
    for image in result.images:
        before = image.moderation
        if before is None:
            return None
        verdict = before if before.reviewed else decide(policy, tenant, before.findings, before.away)
        if not verdict.shown:
            return None
        images.append(image if verdict == before else image.model_copy(update={"moderation": verdict}))
    if all(new is old for new, old in zip(images, result.images, strict=True)):
        return result
    return result.model_copy(update={"images": tuple(images)})

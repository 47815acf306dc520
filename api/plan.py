"""The plan of a request body: the request to compute, its cache key, the address of its result, and
its cost. Pure; plans are remembered."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from api.init_image import InitImage
from api.job_request import JobRequest
from api.normalise import normalise
from cache.cache_key import request_key, result_address, tenant_scope
from contracts.models import ServedModel
from contracts.moderation import Verdict
from contracts.requests import MAX_SEED, GenerationRequest
from contracts.settings import ApiSettings
from runtime.lru import LruCache
from scheduler.fairness import cost_of

MAX_PLANS: Final = 4096
"""How many plans are remembered."""
MAX_PLAN_CHARS: Final = 1000
"""The longest texts of a plan that is remembered, in characters. This bounds the memory of all plans."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a body, with its model as it is served now.

    `cost` is in the unit of `scheduler.fairness.cost_of`.
    """

    served: ServedModel
    request: GenerationRequest
    key: str
    address: str
    """The address of its result in the cache."""
    cost: float
    init: InitImage | None = None
    """The init image. It is stored only if the job is computed. The rate limit of the API key has
    been charged for it."""


def random_seed() -> int:
    """A random seed, from 0 to `MAX_SEED`."""
    return secrets.randbelow(MAX_SEED + 1)


def planned(
    tenant: str,
    body: JobRequest,
    served: ServedModel,
    settings: ApiSettings,
    *,
    seed: Callable[[], int] = random_seed,
    init: InitImage | None = None,
    policy: str = "",
) -> Plan:
    """The plan of `body` of `tenant`, for the model `served`. `policy`: as in `cache.cache_key.request_key`.

    `seed` makes the seed of a body that asks for a random one. `init` is the decoded init image
    (None: none, or not decoded yet). Raises `InvalidRequest`.
    """
    spec = served.spec
    scope = tenant_scope(tenant, settings.share_cache_between_tenants)
    name = None if init is None else init.name
    request = normalise(body, spec, settings, scope=scope, random_seed=seed, init_image=name)
    if init is not None:
        request = request.model_copy(update={"warnings": init.warnings})
    key = request_key(request, spec, scope, policy)
    return Plan(served, request, key, result_address(key, request, scope), cost_of(request, spec), init)


def judged(plan: Plan, verdict: Verdict, tenant: str, settings: ApiSettings, policy: str) -> Plan:
    """The plan with what the policy says of its prompts, if that is worth a record."""
    if verdict.state == "passed" and not verdict.away:
        return plan
    request = plan.request.judged(verdict)
    if not request.held:
        return replace(plan, request=request)
    scope = tenant_scope(tenant, settings.share_cache_between_tenants)
    key = request_key(request, plan.served.spec, scope, policy)
    return replace(plan, request=request, key=key, address=result_address(key, request, scope))


class Plans:
    """Makes the plans of bodies without an init image, and remembers them for equal bodies."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._known = LruCache[tuple[str, JobRequest, str], Plan](MAX_PLANS)

    def of(self, tenant: str, body: JobRequest, served: ServedModel, policy: str = "") -> Plan:
        """The plan of `body`.

        It must have no webhook and no metadata: these do not change a plan, and could not be part
        of a look-up key. Raises `InvalidRequest`.
        """
        known = self._known.get((tenant, body, policy))
        if known is not None and known.served is served:
            return known
        if known is not None and known.served.spec == served.spec:
            known = self._known[tenant, body, policy] = replace(known, served=served)
            return known
        plan = planned(tenant, body, served, self._settings, policy=policy)
        texts = len(body.prompt) + len(body.negative_prompt or "")
        if body.seed != "random" and texts <= MAX_PLAN_CHARS:
            self._known[tenant, body, policy] = plan
        return plan

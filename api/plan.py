"""What a body comes to: the request to compute, its cache key, where its result is kept, and its cost. Pure, and remembered."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from api.init_image import InitImage
from api.job_request import JobRequest
from api.normalise import normalise
from cache.cache_key import request_key, result_address, tenant_scope
from contracts.models import ServedModel
from contracts.requests import MAX_SEED, GenerationRequest
from contracts.settings import ApiSettings
from scheduler.fairness import cost_of

MAX_PLANS: Final = 4096
MAX_PLAN_CHARS: Final = 1000
"""Plans of longer texts are made anew each time. That bounds the memory of all."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a body comes to with the model as it is served now."""

    served: ServedModel
    request: GenerationRequest
    key: str
    address: str
    """Of its result in the cache."""
    cost: float
    init: InitImage | None = None
    """The picture to start from. It is stored with the job, where that is to be computed. The key's rate has been charged for it."""


def random_seed() -> int:
    return secrets.randbelow(MAX_SEED + 1)


def planned(
    tenant: str,
    body: JobRequest,
    served: ServedModel,
    settings: ApiSettings,
    *,
    seed: Callable[[], int] = random_seed,
    init: InitImage | None = None,
) -> Plan:
    """The plan of `body`, which starts from `init` where it names a picture. `seed` gives the number that a random seed becomes.
    Raises `InvalidRequest`."""
    spec = served.spec
    scope = tenant_scope(tenant, settings.share_cache_between_tenants)
    name = None if init is None else init.name
    request = normalise(body, spec, settings, scope=scope, random_seed=seed, init_image=name)
    if init is not None:
        request = request.model_copy(update={"warnings": init.warnings})
    key = request_key(request, spec, scope)
    return Plan(served, request, key, result_address(key, request, scope), cost_of(request, spec), init)


class Plans:
    """The plans of bodies without a picture, remembered for those that come again."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._known: OrderedDict[tuple[str, JobRequest], Plan] = OrderedDict()

    def of(self, tenant: str, body: JobRequest, served: ServedModel) -> Plan:
        """The plan of `body`, which names no webhook and no metadata: they decide nothing, and could not be looked up. Raises
        `InvalidRequest`."""
        known = self._known.get((tenant, body))
        if known is not None and known.served is served:
            return known
        if known is not None and known.served.spec == served.spec:
            known = self._known[tenant, body] = replace(known, served=served)
            return known
        plan = planned(tenant, body, served, self._settings)
        texts = len(body.prompt) + len(body.negative_prompt or "")
        if body.seed != "random" and texts <= MAX_PLAN_CHARS:
            self._known[tenant, body] = plan
            if len(self._known) > MAX_PLANS:
                self._known.popitem(last=False)
        return plan

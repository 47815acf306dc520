"""Plans a request body: looks up its model, and decodes its init image. `api.plan` makes the plan itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from api.catalogue import Catalogue
from api.init_image import read
from api.job_request import JobRequest
from api.keyring import Principal
from api.long_poll import unless_gone
from api.normalise import checked_model_name
from api.pictures.decoders import Decoders
from api.plan import Plan, Plans, planned, random_seed
from api.quotas import Quotas
from contracts.models import ServedModel
from contracts.settings import ApiSettings


class Planner:
    """Plans bodies with the models as they are served now."""

    def __init__(
        self, settings: ApiSettings, catalogue: Catalogue, quotas: Quotas, decoders: Decoders
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._quotas = quotas
        self._plans = Plans(settings)
        self._decoders = decoders

    async def plan(self, caller: Principal, body: JobRequest, gone: asyncio.Future[None] | None) -> Plan:
        """The plan of `body`. Its only lasting effect is the charge for an init image.

        Raises `RequestError`, `UnavailableError`, and `ClientDisconnect` if `gone` is done before
        the init image is decoded.
        """
        name = None if body.model is None else checked_model_name(body.model)
        served = await self._catalogue.resolve(name)
        metadata = body.metadata
        if body.webhook is not None or metadata is not None:
            body = body.model_copy(update={"webhook": None, "metadata": None})
        if body.init_image is None:
            plan = self._plans.of(caller.tenant, body, served)
        else:
            plan = await unless_gone(gone, self._with_init_image(caller, body, body.init_image, served))
        return (
            replace(plan, request=plan.request.model_copy(update={"metadata": metadata}))
            if metadata
            else plan
        )

    async def _with_init_image(
        self, caller: Principal, body: JobRequest, text: str, served: ServedModel
    ) -> Plan:
        """The plan of a body with an init image.

        It is too large to be remembered. The image is decoded last: after the rest is checked and
        the rate limit of the API key is charged.
        """
        settings, seed = self._settings, random_seed()
        checked = planned(caller.tenant, body, served, settings, seed=lambda: seed).request
        source = read(
            text, max_bytes=settings.max_init_image_bytes, max_pixels=settings.max_init_image_pixels
        )
        await self._quotas.charge_rate(caller)
        init = await self._decoders.prepare(caller.tenant, source, checked.width, checked.height)
        return planned(caller.tenant, body, served, settings, seed=lambda: seed, init=init)

"""Plans a request body: looks up its model, and decodes its init image. `api.plan` makes the plan itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from api.catalogue import Catalogue
from api.init_image import read
from api.job_request import JobRequest
from api.keyring import Principal
from api.long_poll import unless_gone
from api.moderation import PromptJudge, PromptPolicy, scope_of
from api.normalise import checked_model_name
from api.pictures.decoders import Decoders
from api.plan import Plan, Plans, judged, planned, random_seed
from api.quotas import Quotas
from contracts.models import ServedModel
from contracts.requests import GenerationRequest
from contracts.settings import ApiSettings
from moderation.policy import WordField


class Planner:
    """Plans bodies with the models as they are served now."""

    def __init__(
        self,
        settings: ApiSettings,
        catalogue: Catalogue,
        quotas: Quotas,
        decoders: Decoders,
        prompts: PromptJudge,
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._quotas = quotas
        self._plans = Plans(settings)
        self._decoders = decoders
        self._prompts = prompts

    async def plan(self, caller: Principal, body: JobRequest, gone: asyncio.Future[None] | None) -> Plan:
        """The plan of `body`. Its only lasting effect is the charge for an init image.

        Its prompts are judged once they are known to be valid. Raises `RequestError`, `UnavailableError`, and `ClientDisconnect` if `gone` is done before
        the init image is decoded.
        """
        name = None if body.model is None else checked_model_name(body.model)
        served = await self._catalogue.resolve(name)
        metadata = body.metadata
        if body.webhook is not None or metadata is not None:
            body = body.model_copy(update={"webhook": None, "metadata": None})
        policy = self._prompts.policy
        if body.init_image is not None:
            plan = await unless_gone(
                gone, self._with_init_image(caller, body, body.init_image, served, policy)
            )
        elif policy is None:
            plan = self._plans.of(caller.tenant, body, served)
        else:
            scope = scope_of(policy.policy, caller.tenant)
            plan = self._plans.of(caller.tenant, body, served, scope)
            verdict = await self._prompts.judge(policy, caller, texts_of(plan.request))
            plan = judged(plan, verdict, caller.tenant, self._settings, scope)
        if policy is not None and policy.policy.judges_pictures:
            # A worker without this policy must show none of the images.
            plan = replace(plan, request=plan.request.under(policy.policy.title))
        return (
            replace(plan, request=plan.request.model_copy(update={"metadata": metadata}))
            if metadata
            else plan
        )

    async def _with_init_image(
        self, caller: Principal, body: JobRequest, text: str, served: ServedModel, policy: PromptPolicy | None
    ) -> Plan:
        """The plan of a body with an init image.

        It is too large to be remembered. The image is decoded last: after the rest is checked and
        judged, and the rate limit of the API key is charged. What its file says is judged then.
        """
        settings, seed = self._settings, random_seed()
        checked = planned(caller.tenant, body, served, settings, seed=lambda: seed).request
        texts = texts_of(checked)
        if policy is not None:
            await self._prompts.judge(policy, caller, texts, more_to_come=True)
        source = read(
            text, max_bytes=settings.max_init_image_bytes, max_pixels=settings.max_init_image_pixels
        )
        await self._quotas.charge_rate(caller)
        init = await self._decoders.prepare(
            caller.tenant, source, checked.width, checked.height, texts=policy is not None
        )
        if policy is None:
            return planned(caller.tenant, body, served, settings, seed=lambda: seed, init=init)
        own: tuple[WordField, str] = ("init_image", init.texts)
        verdict = await self._prompts.judge(policy, caller, (*texts, own))
        scope = scope_of(policy.policy, caller.tenant)
        plan = planned(caller.tenant, body, served, settings, seed=lambda: seed, init=init, policy=scope)
        return judged(plan, verdict, caller.tenant, settings, scope)


def texts_of(request: GenerationRequest) -> tuple[tuple[WordField, str], ...]:
    """What the request says in words, and in which field."""
    lora = "" if request.lora is None else request.lora.name
    return ("prompt", request.prompt), ("negative_prompt", request.negative_prompt), ("lora", lora)

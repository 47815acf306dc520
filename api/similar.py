"""Answers a request from the result of a prompt that means the same, where the request asks for that."""

from __future__ import annotations

from urllib.parse import quote

from api.lookup import Under, looked_up
from api.moderation import PromptJudge, scope_of
from api.plan import Plan
from api.search import SearchClient
from cache.cache_key import parameter_group, tenant_scope
from contracts.errors import SearchUnavailable
from contracts.jobs import Job, JobResult, NewJob
from contracts.requests import Similar
from contracts.settings import ApiSettings
from contracts.similar import SimilarQuery
from store.stores import Stores
from telemetry import metrics, tracing

AWAY = (
    "Prompts that mean the same could not be looked for: the search does not answer. So this one was drawn."
)
"""The warning of a job that a similar answer was asked for, in vain."""
HEADER_CHARS = 300
"""Characters of a prompt in a header, before they are encoded. The job has all of them."""


class SimilarAnswers:
    """Looks for results of prompts that mean the same, within the scope of the request."""

    def __init__(
        self, settings: ApiSettings, stores: Stores, search: SearchClient, prompts: PromptJudge
    ) -> None:
        self._settings = settings
        self._prompts = prompts
        self._stores = stores
        self._search = search

    async def find(
        self, new: NewJob, plan: Plan, address: str, under: Under
    ) -> tuple[NewJob, JobResult | None]:
        """The job, and the result that answers it; None: there is none, and the job is to be drawn.

        `address` is that of the job's own result. What the policy of `under` would not show answers nobody,
        nor do images of a prompt in which the policy in force finds something now. A prompt that it holds or
        tags is drawn. The job says what answered it, or warns that the search
        did not answer.
        """
        asked = new.request.similar
        if asked is None or new.request.moderation is not None:
            return new, None
        scope = tenant_scope(new.tenant, self._settings.share_cache_between_tenants)
        query = SimilarQuery(
            group=parameter_group(
                new.request,
                plan.served.spec,
                scope,
                "" if under.policy is None else scope_of(under.policy, under.tenant),
            ),
            address=address,
            prompt=new.request.prompt,
            own_seed=new.request.seed,
            seed=None if asked.any_seed else new.request.seed,
            floor=asked.floor,
        )
        with tracing.span("look for similar prompts"):
            try:
                answer = await self._search.similar(query)
            except SearchUnavailable:
                metrics.SIMILAR.labels("away").inc()
                return _with(new, {"warnings": (*new.request.warnings, AWAY)}), None
            for match in answer.matches:
                if not await self._may_answer(match.prompt, new):
                    continue
                result = await looked_up(self._stores, match.address, under)
                if result is not None:
                    metrics.SIMILAR.labels("hit").inc()
                    found = asked.model_copy(update={"prompt": match.prompt, "score": round(match.score, 4)})
                    return _with(new, {"similar": found}), result
        metrics.SIMILAR.labels("miss").inc()
        return new, None

    async def _may_answer(self, prompt: str, new: NewJob) -> bool:
        """Whether images of this prompt may answer the job: it was judged by the words of its time, if at all."""
        policy = self._prompts.policy
        return policy is None or await self._prompts.passes(policy, new.tenant, (("prompt", prompt),))


def headers(job: Job) -> dict[str, str]:
    """The headers that say which prompt answered the job; none for any other job.

    The prompt is cut to `HEADER_CHARS`, and percent-encoded as UTF-8.
    """
    similar: Similar | None = job.request.similar
    if similar is None or similar.prompt is None:
        return {}
    prompt = quote(similar.prompt[:HEADER_CHARS], safe=" ", errors="replace")
    return {"X-Cache-Score": f"{similar.score:.4f}", "X-Cache-Prompt": prompt}


def _with(new: NewJob, changes: dict[str, object]) -> NewJob:
    return new.model_copy(update={"request": new.request.model_copy(update=changes)})

"""Judges prompts by the policy in force, before the cache is asked and before anything is charged.

A prompt that is blocked is refused. One that is tagged or in review takes its verdict along in the
request's record. The texts themselves are in no log, no metric and no answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from api.audit import content_blocked
from api.keyring import Principal
from api.meaning import MeaningAway, MeaningClient
from contracts.errors import ContentBlocked, ModerationUnavailable, SettingsError
from contracts.moderation import Finding, Layer, Verdict
from contracts.settings import ApiSettings
from moderation.decide import decide
from moderation.live import InForce, LivePolicy
from moderation.policy import InvalidPolicy, Policy, WordField, source_of
from runtime.lru import LruCache
from telemetry import metrics

if TYPE_CHECKING:
    from moderation.words import WordMatcher

MAX_KNOWN: Final = 4096
"""How many requests' findings are remembered."""
MAX_KNOWN_CHARS: Final = 2000
"""The longest texts of a request whose findings are remembered, in characters."""
AGAIN_S: Final = 2.0

Texts = tuple[tuple[WordField, str], ...]
"""What a request says, and in which field."""
Findings = tuple[tuple[WordField, Finding], ...]


class Prompts:
    """What an API process has made of a policy: the matcher of its words, and what it has found lately."""

    def __init__(self, words: WordMatcher | None, heads: Iterable[str] = ()) -> None:
        self.words = words
        self.heads = frozenset(heads)
        """The heads under meaning, as findings name them."""
        self.known = LruCache[tuple[str, Texts], Findings](MAX_KNOWN)


PromptPolicy = InForce[Prompts]


def opened(settings: ApiSettings) -> LivePolicy[Prompts] | None:
    """The policy of the settings; None: there is none. Raises `SettingsError` if it cannot be used."""
    if settings.moderation is None:
        return None
    from moderation.words import compiled  # only here: without a policy nothing of it is loaded

    def compile_(policy: Policy) -> Prompts:
        if policy.meaning.heads and not settings.moderation_url:
            raise InvalidPolicy(
                f"{policy.title} has heads under meaning, and DARKROOM_MODERATION_URL names no process that reads them"
            )
        return Prompts(compiled(policy), (source_of(head.file) for head in policy.meaning.heads))

    try:
        return LivePolicy.opened(settings.moderation, compile_)
    except InvalidPolicy as error:
        raise SettingsError(f"DARKROOM_MODERATION: {error}") from None


def scope_of(policy: Policy, tenant: str) -> str:
    """Which of a tenant's results may be shared under the policy: part of a cache key.

    Not its version: what is cached is judged again by its findings. A tenant with rules of its own
    shares with nobody.
    """
    return f"{policy.name}/{tenant}" if tenant in policy.tenants else policy.name


class PromptJudge:
    """Judges the prompts of requests. Without a policy it does nothing."""

    def __init__(self, settings: ApiSettings, live: LivePolicy[Prompts] | None) -> None:
        self.live = live
        self._meaning = MeaningClient(settings)

    @property
    def policy(self) -> PromptPolicy | None:
        """The policy in force. A request is judged by one policy from beginning to end."""
        return None if self.live is None else self.live.now

    async def judge(
        self,
        policy: PromptPolicy,
        caller: Principal,
        texts: Sequence[tuple[WordField, str]],
        *,
        more_to_come: bool = False,
    ) -> Verdict:
        """What the policy says of the texts of a request. With `more_to_come` it is judged again, with further texts,
        unless it is blocked by these; a request is counted once.

        Raises `ContentBlocked`, and `ModerationUnavailable` if a layer cannot look and the policy does
        without it in no case.
        """
        found, away = await self._found(policy, caller.tenant, _looked_at(policy, texts))
        verdict = decide(policy.policy, caller.tenant, [finding for _, finding in found], away)
        if verdict.layer in away:
            metrics.PROMPTS_JUDGED.labels("unavailable").inc()
            raise ModerationUnavailable(
                "The prompt cannot be judged now, and this platform draws none unjudged.",
                retry_after_s=AGAIN_S,
            )
        if not more_to_come or verdict.state == "blocked":
            metrics.PROMPTS_JUDGED.labels(verdict.state).inc()
            self._count(policy.policy, caller.tenant, verdict)
        if verdict.state == "blocked":
            content_blocked(caller, verdict)
            raise ContentBlocked(
                f"This platform's policy does not allow what the request asks for: {verdict.categories[0]}.",
                param=_field(found, verdict),
                details={"category": verdict.categories[0]},
            )
        return verdict

    async def passes(self, policy: PromptPolicy, tenant: str, texts: Sequence[tuple[WordField, str]]) -> bool:
        """Whether the policy finds nothing to act on in texts that the caller has not sent, such as a prompt that
        means the same. Nothing is counted, and a layer that cannot look does not pass."""
        looked_at = _looked_at(policy, texts)
        found, away = await self._found(policy, tenant, looked_at)
        verdict = decide(policy.policy, tenant, [finding for _, finding in found], away)
        return verdict.state == "passed" and not verdict.away

    async def close(self) -> None:
        """Close the connections to the process that reads meaning."""
        await self._meaning.close()

    async def _found(
        self, policy: PromptPolicy, tenant: str, texts: Texts
    ) -> tuple[Findings, tuple[Layer, ...]]:
        """What each layer finds, and the layers that are away."""
        known = policy.compiled.known
        if (remembered := known.get((tenant, texts))) is not None:
            return remembered, ()
        found = list(self._words(policy, tenant, texts))
        away: tuple[Layer, ...] = ()
        rules = policy.policy.rules_of(tenant)
        blocked = any(
            (rule := rules.get(each.category)) is not None and rule.action("words", each.score) == "block"
            for _, each in found
        )
        if policy.compiled.heads and not blocked:
            begun = time.perf_counter()
            try:
                for field, text in texts:
                    if field == "prompt":
                        found += [(field, each) for each in await self._meaning.look(text)]
            except MeaningAway as error:
                metrics.LAYER_AWAY.labels("meaning", error.cause).inc()
                away = ("meaning",)
            metrics.LAYER_SECONDS.labels("meaning").observe(time.perf_counter() - begun)
        # After a change of heads the other process may answer by the old ones for a moment: that is not remembered.
        current = (
            blocked or {each.source for _, each in found if each.layer == "meaning"} == policy.compiled.heads
        )
        if current and sum(len(text) for _, text in texts) <= MAX_KNOWN_CHARS:
            known[tenant, texts] = tuple(found)
        return tuple(found), away

    def _words(self, policy: PromptPolicy, tenant: str, texts: Texts) -> Findings:
        words = policy.compiled.words
        if words is None:
            return ()
        fields = policy.policy.words.fields
        begun = time.perf_counter()
        found = [
            (field, each) for field, text in texts if field in fields for each in words.find(tenant, text)
        ]
        metrics.LAYER_SECONDS.labels("words").observe(time.perf_counter() - begun)
        return tuple(found)

    def _count(self, policy: Policy, tenant: str, verdict: Verdict) -> None:
        rules = policy.rules_of(tenant)
        for finding in verdict.findings:
            rule = rules.get(finding.category)
            action = "allow" if rule is None else rule.action(finding.layer, finding.score)
            if action != "allow":
                metrics.MODERATED.labels(finding.layer, finding.category, action).inc()


def _looked_at(policy: PromptPolicy, texts: Sequence[tuple[WordField, str]]) -> Texts:
    """The texts that a layer looks at."""
    fields = (*policy.policy.words.fields, "prompt")
    return tuple((field, text) for field, text in texts if text and field in fields)


def _field(found: Findings, verdict: Verdict) -> str | None:
    """The field in which the finding that decided is."""
    fields = (
        field
        for field, each in found
        if (each.layer, each.category, each.source) == (verdict.layer, verdict.categories[0], verdict.source)
    )
    return next(fields, None)

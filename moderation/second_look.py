"""Which held images a model looks at before people do, and what follows from its scores. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from contracts.moderation import SEVERITY, Category, Verdict
from contracts.reviews import Choice, LookOutcome, Review, ReviewState
from moderation.policy import Policy


def asked(policy: Policy, tenant: str, verdict: Verdict) -> tuple[Category, ...]:
    """The categories that the model is asked about; empty: it does not look, and people decide.

    It is asked about all categories for which the image is held, and only if the policy has a rule of the
    second look for each of them. An image that is held because a layer was away has none: then it is
    asked about all categories with such a rule.
    """
    if policy.second_look is None or verdict.state != "in_review":
        return ()
    ruled = [name for name, rule in policy.rules_of(tenant).items() if rule.second_look != "allow"]
    if not verdict.categories:
        return tuple(ruled)
    return verdict.categories if set(verdict.categories) <= set(ruled) else ()


def asked_for(policy: Policy, tenants: Iterable[str], verdict: Verdict) -> tuple[Category, ...]:
    """What the model is asked about an image that several tenants have; empty if it is for one of them."""
    each = [asked(policy, tenant, verdict) for tenant in tenants]
    return tuple(dict.fromkeys(name for names in each for name in names)) if each and all(each) else ()


def judged(policy: Policy, tenants: Iterable[str], scores: Mapping[Category, float]) -> LookOutcome:
    """What the policy says of the model's scores. Tenants whose rules disagree leave the image to people."""
    outcomes = {_judged(policy, tenant, scores) for tenant in tenants}
    return outcomes.pop() if len(outcomes) == 1 else "review"


def may_decide(policy: Policy, choice: Choice | None, verdict: Verdict) -> bool:
    """Whether the model decides by itself, and not only advises.

    It releases no image that another layer could not look at.
    """
    if policy.second_look is None or choice not in policy.second_look.may:
        return False
    return choice == "refuse" or not verdict.away


def is_peoples(review: Review) -> bool:
    """Whether somebody has voted on the image, decided, taken a decision back, or appealed: then the rest is
    people's too."""
    return (
        review.state is not ReviewState.WAITING
        or bool(review.votes)
        or review.decision is not None
        or review.appeal is not None
    )


def _judged(policy: Policy, tenant: str, scores: Mapping[Category, float]) -> LookOutcome:
    rules = policy.rules_of(tenant)
    actions = [rules[name].action("second_look", score) for name, score in scores.items() if name in rules]
    gravest = max(actions, key=SEVERITY.__getitem__, default="review")
    if gravest == "block":
        return "refuse"
    return "review" if gravest == "review" else "release"

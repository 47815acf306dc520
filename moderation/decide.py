"""From findings to a verdict. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from contracts.moderation import SEVERITY, Action, Finding, Layer, State, Verdict
from moderation.policy import Policy

STATES: Final[dict[Action, State]] = {
    "allow": "passed",
    "tag": "tagged",
    "review": "in_review",
    "block": "blocked",
}


def decide(policy: Policy, tenant: str, findings: Sequence[Finding], away: Iterable[Layer] = ()) -> Verdict:
    """What the policy says of a prompt or an image of a tenant.

    The gravest action of all findings counts. A layer that could not look, and whose entry in
    `when_away` is `closed`, holds the image. A finding of a category without a rule changes nothing.
    """
    rules = policy.rules_of(tenant)
    acted = sorted(
        (
            (SEVERITY[follows], finding.score, finding, follows)
            for finding in findings
            if (rule := rules.get(finding.category)) is not None
            and (follows := rule.action(finding.layer, finding.score)) != "allow"
        ),
        key=lambda each: each[:2],
        reverse=True,
    )
    missing = tuple(dict.fromkeys(away))
    closed = [layer for layer in missing if getattr(policy.when_away, layer, "open") == "closed"]
    action: Action = acted[0][3] if acted else "allow"
    first = acted[0][2] if acted else None
    if closed and SEVERITY[action] < SEVERITY["review"]:
        return Verdict(
            state="in_review",
            categories=tuple(dict.fromkeys(each[2].category for each in acted)),
            policy=policy.title,
            layer=closed[0],
            away=missing,
            findings=tuple(findings),
        )
    return Verdict(
        state=STATES[action],
        categories=tuple(dict.fromkeys(each[2].category for each in acted)),
        policy=policy.title,
        layer=None if first is None else first.layer,
        score=None if first is None else first.score,
        source="" if first is None else first.source,
        away=missing,
        findings=tuple(findings),
    )

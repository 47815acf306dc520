"""Which held images a model looks at, and what its scores mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from contracts.moderation import Layer, State, Verdict
from contracts.reviews import Choice, LookOutcome
from moderation.policy import Policy, parse
from moderation.second_look import asked, asked_for, judged, may_decide

POLICY = """
name: house
version: 1
second_look: {{url: 'http://vlm:8000/v1', model: m, may: {may}}}
rules:
  weapons: {{pictures: review, second_look: {{review: 0.2, block: 0.8}}}}
  violence: {{second_look: block}}
  hate: {{words: review}}
tenants:
  strict: {{weapons: {{second_look: {{block: 0.1}}}}}}
  people: {{weapons: {{second_look: allow}}, violence: {{second_look: allow}}}}
"""


def policy(may: str = "[]") -> Policy:
    return parse(POLICY.format(may=may), "p")


def verdict(*categories: str, state: State = "in_review", away: Sequence[Layer] = ()) -> Verdict:
    return Verdict(state=state, categories=categories, policy="house@1", away=tuple(away))


@pytest.mark.parametrize(
    ("tenant", "given", "categories"),
    [
        ("public", verdict("weapons"), ("weapons",)),
        ("public", verdict("violence", "weapons"), ("violence", "weapons")),
        ("public", verdict("weapons", "hate"), ()),
        ("public", verdict("hate"), ()),
        ("public", verdict("unknown"), ()),
        ("public", verdict(away=["pictures"]), ("weapons", "violence")),
        ("people", verdict("weapons"), ()),
        ("people", verdict(away=["pictures"]), ()),
        ("public", verdict("weapons", state="passed"), ()),
        ("public", verdict("weapons", state="blocked"), ()),
    ],
)
def test_the_model_looks_where_it_is_asked_about_all_that_is_held(
    tenant: str, given: Verdict, categories: tuple[str, ...]
) -> None:
    assert asked(policy(), tenant, given) == categories


def test_without_a_second_look_nobody_is_asked() -> None:
    plain = parse("name: a\nversion: 1\nrules: {weapons: {pictures: review}}\n", "p")
    assert asked(plain, "public", verdict("weapons")) == ()
    assert not may_decide(plain, "refuse", verdict("weapons"))


def test_an_image_of_several_tenants_is_looked_at_if_all_their_rules_say_so() -> None:
    held = verdict("weapons")
    assert asked_for(policy(), ["public", "strict"], held) == ("weapons",)
    assert asked_for(policy(), ["public", "people"], held) == ()
    assert asked_for(policy(), [], held) == ()


@pytest.mark.parametrize(
    ("tenants", "scores", "outcome"),
    [
        (["public"], {"weapons": 0.0}, "release"),
        (["public"], {"weapons": 0.2}, "review"),
        (["public"], {"weapons": 0.8}, "refuse"),
        (["public"], {"weapons": 0.8, "violence": 0.0}, "refuse"),
        (["public"], {"weapons": 0.0, "violence": 0.49}, "release"),
        (["public"], {"weapons": 0.0, "violence": 0.5}, "refuse"),
        (["strict"], {"weapons": 0.1}, "refuse"),
        (["public", "strict"], {"weapons": 0.1}, "review"),
        (["public", "strict"], {"weapons": 0.0}, "release"),
        (["public", "strict"], {"weapons": 0.9}, "refuse"),
        (["public"], {}, "review"),
        ([], {"weapons": 0.0}, "review"),
    ],
)
def test_the_gravest_score_counts_and_tenants_must_agree(
    tenants: list[str], scores: dict[str, float], outcome: LookOutcome
) -> None:
    assert judged(policy(), tenants, scores) == outcome


@pytest.mark.parametrize(
    ("may", "choice", "away", "decides"),
    [
        ("[]", "release", (), False),
        ("[]", "refuse", (), False),
        ("[refuse]", "refuse", (), True),
        ("[refuse]", "release", (), False),
        ("[release, refuse]", "release", (), True),
        ("[release, refuse]", "release", ("hashes",), False),
        ("[release, refuse]", "refuse", ("hashes",), True),
        ("[release, refuse]", None, (), False),
    ],
)
def test_it_decides_what_it_may_and_releases_nothing_that_a_layer_has_not_seen(
    may: str, choice: Choice | None, away: Any, decides: bool
) -> None:
    assert may_decide(policy(may), choice, verdict("weapons", away=away)) is decides

"""What follows from verdicts: the graver of two, how urgent a review is, and when people have decided."""

from __future__ import annotations

import itertools

import pytest

from contracts.moderation import SHOWN, Finding, State, Verdict
from contracts.reviews import Choice, Decision, PastDecision, ReviewState, Vote
from moderation.held import (
    GRAVITY,
    by_model,
    decided_before,
    decided_result,
    gravest,
    outcome,
    severity_of,
    with_vote,
)
from tests.store.held import image, result_of, verdict
from tests.store.made import name

WORDS = Finding(layer="words", category="hate", source="list")


def prompt(state: State) -> Verdict:
    return Verdict(
        state=state,
        categories=("hate",),
        policy="house@3",
        layer="words",
        findings=(WORDS,),
        away=("meaning",),
    )


@pytest.mark.parametrize(("of_prompt", "of_picture"), [*itertools.product(GRAVITY, GRAVITY)])
def test_the_graver_verdict_counts_and_nothing_that_was_found_is_lost(
    of_prompt: State, of_picture: State
) -> None:
    both = gravest(verdict(of_picture), prompt(of_prompt))
    assert GRAVITY[both.state] == max(GRAVITY[of_prompt], GRAVITY[of_picture])
    assert (both.state in SHOWN) == (of_prompt in SHOWN and of_picture in SHOWN)
    assert set(both.categories) == {"hate", "weapons"}
    assert {each.category for each in both.findings} == {"hate", "weapons"}
    assert both.away == ("meaning",)


def test_without_a_prompts_verdict_the_pictures_stands() -> None:
    assert gravest(verdict("tagged"), None) == verdict("tagged")


@pytest.mark.parametrize("model", [False, True])
@pytest.mark.parametrize("past", [*ReviewState, None])
@pytest.mark.parametrize("state", GRAVITY)
def test_people_are_heard_where_a_policy_would_ask_them_again(
    state: State, past: ReviewState | None, model: bool
) -> None:
    before = None if past is None else PastDecision(state=past, decision_id="1", at=1.0, by_model=model)
    decided = decided_before(verdict(state), before)
    if state == "in_review" and past in (ReviewState.RELEASED, ReviewState.REFUSED):
        assert (decided.state, decided.layer) == (past.value, "second_look" if model else "people")
    else:
        assert decided == verdict(state), "what is blocked stays blocked"


@pytest.mark.parametrize(
    ("score", "severity"), [(0.0, 1), (0.49, 1), (0.5, 2), (0.89, 2), (0.9, 3), (1.0, 3)]
)
def test_a_surer_finding_is_more_urgent(score: float, severity: int) -> None:
    assert severity_of(verdict(score=score)) == severity


def test_a_known_image_is_urgent_and_a_layer_that_was_away_is_not() -> None:
    known = verdict(score=0.1).model_copy(update={"layer": "hashes"})
    assert severity_of(known) == 3
    assert severity_of(Verdict(state="in_review", policy="p@1", layer="pictures", away=("pictures",))) == 1


def vote(by: str, choice: Choice) -> Vote:
    return Vote(choice=choice, by=by, at=1.0)


@pytest.mark.parametrize(
    ("votes", "reviewers", "state"),
    [
        ([], 1, ReviewState.WAITING),
        ([("a", "release")], 1, ReviewState.RELEASED),
        ([("a", "release")], 2, ReviewState.WAITING),
        ([("a", "release"), ("a", "release")], 2, ReviewState.WAITING),
        ([("a", "release"), ("b", "release")], 2, ReviewState.RELEASED),
        ([("a", "release"), ("b", "refuse")], 2, ReviewState.WAITING),
        ([("a", "release"), ("b", "refuse"), ("a", "refuse")], 2, ReviewState.REFUSED),
    ],
)
def test_so_many_people_must_agree(
    votes: list[tuple[str, Choice]], reviewers: int, state: ReviewState
) -> None:
    cast: tuple[Vote, ...] = ()
    for by, choice in votes:
        cast = with_vote(cast, vote(by, choice))
    assert outcome(cast, reviewers) is state


def test_a_decision_changes_the_images_that_it_names_and_no_other() -> None:
    before = result_of(image(1), image(2, "passed"), image(1), image(3, None))
    released = decided_result(before, name(1), (0, 2, 9), ReviewState.RELEASED, None)
    assert [each.name for each in released.images] == [name(1), name(2), name(1), name(3)]
    assert [each.shown for each in released.images] == [True] * 4
    refused = decided_result(released, name(1), (0, 2), ReviewState.REFUSED, None)
    assert [each.name for each in refused.images] == ["", name(2), "", name(3)]
    again = decided_result(refused, name(1), (0, 2), ReviewState.WAITING, None)
    assert [each.name for each in again.images] == [f"held/{name(1)}", name(2), f"held/{name(1)}", name(3)]
    assert again.images[1] == before.images[1]
    assert decided_result(again, name(1), (3,), ReviewState.RELEASED, None) == again, (
        "no policy has looked at it"
    )
    assert decided_result(before, name(1), (1,), ReviewState.REFUSED, None) == before, (
        "another image is there"
    )


def test_a_review_without_a_decision_keeps_who_decided_before() -> None:
    verdict_then = verdict("released").model_copy(update={"layer": "second_look"})
    before = result_of(image(1).model_copy(update={"name": name(1), "moderation": verdict_then}))
    assert decided_result(before, name(1), (0,), ReviewState.RELEASED, None) == before


@pytest.mark.parametrize(
    ("choice", "voters", "model"),
    [
        ("release", ["second-look:m"], True),
        ("release", ["second-look:m", "dk_1"], False),
        ("release", ["dk_1"], False),
        (None, [], False),
    ],
)
def test_a_decision_is_the_models_where_no_person_has_agreed(
    choice: Choice | None, voters: list[str], model: bool
) -> None:
    votes = tuple(vote(by, "release") for by in voters)
    by = voters[-1] if voters else "dk_1"
    decision = Decision(id="1", choice=choice, by=by, votes=votes, at=1.0)
    assert by_model(decision) is model
    before = result_of(image(1))
    if choice is not None:
        (decided,) = decided_result(before, name(1), (0,), ReviewState.RELEASED, decision).images
        assert decided.moderation is not None
        assert decided.moderation.layer == ("second_look" if model else "people")

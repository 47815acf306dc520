"""What a body comes to: decided by body, model, tenant and settings alone, and remembered while they stay the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from api.init_image import InitImage
from api.job_request import JobRequest
from api.plan import MAX_PLAN_CHARS, MAX_PLANS, Plan, Plans, planned
from cache import cache_key
from contracts.errors import InvalidRequest
from contracts.models import ServedModel
from contracts.settings import ApiSettings
from tests.store.test_others import spec

SETTINGS = ApiSettings.model_validate({})
SERVED = ServedModel(spec=spec("m"), workers=(), awaited=True)


def body(**fields: object) -> JobRequest:
    return JobRequest.model_validate({"prompt": "a red apple", **fields})


def plan(**fields: object) -> Plan:
    return planned("a", body(**fields), SERVED, SETTINGS)


def test_equal_bodies_have_equal_plans_and_other_tenants_other_keys() -> None:
    assert plan() == plan()
    assert planned("b", body(), SERVED, SETTINGS).key != plan().key
    assert planned("a", body(seed="random"), SERVED, SETTINGS, seed=lambda: 5).request.seed == 5


def test_a_picture_decides_the_key_and_brings_its_warnings() -> None:
    served = SERVED.model_copy(update={"spec": spec("m").model_copy(update={"init_images": True})})
    init = InitImage("inputs/" + "0" * 64 + ".png", b"", ("it was turned",))
    asked = body(init_image="aGk=", strength=0.5, num_inference_steps=4)
    one = planned("a", asked, served, SETTINGS, init=init)
    other = planned("a", asked, served, SETTINGS, init=replace(init, name="inputs/" + "1" * 64 + ".png"))
    assert (one.request.init_image, one.request.warnings) == (init.name, init.warnings)
    assert one.key != other.key


def test_a_plan_is_remembered_until_the_model_changes() -> None:
    plans = Plans(SETTINGS)
    first = plans.of("a", body(), SERVED)
    assert plans.of("a", body(), SERVED) is first
    announced_again = SERVED.model_copy()
    again = plans.of("a", body(), announced_again)
    assert again.request is first.request
    assert again.served is announced_again
    other = SERVED.model_copy(update={"spec": spec("m").model_copy(update={"revision": "2"})})
    assert plans.of("a", body(), other).key != first.key


@pytest.mark.parametrize("fields", [{"seed": "random"}, {"prompt": "long " * MAX_PLAN_CHARS}])
def test_random_seeds_and_long_texts_are_planned_anew(fields: dict[str, object]) -> None:
    settings = ApiSettings.model_validate({"max_prompt_chars": 10_000})
    plans = Plans(settings)
    assert plans.of("a", body(**fields), SERVED) is not plans.of("a", body(**fields), SERVED)


def test_plans_are_bounded() -> None:
    plans = Plans(SETTINGS)
    first = plans.of("a", body(seed=0), SERVED)
    for seed in range(1, MAX_PLANS + 1):
        plans.of("a", body(seed=seed), SERVED)
    assert plans.of("a", body(seed=0), SERVED) is not first


def test_what_the_model_cannot_do_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        plan(width=7)


def test_a_text_is_normalised_once_for_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[str] = []
    real = cache_key._normalise_piece

    def normalise_piece(piece: str) -> str:
        pieces.append(piece)
        return real(piece)

    monkeypatch.setattr(cache_key, "_normalise_piece", normalise_piece)
    text = "a text that no other test asks for"
    assert plan(prompt=text).request.prompt == text
    assert pieces.count(text) == 1

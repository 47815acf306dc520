"""A cached result is looked at again before it answers anybody."""

from __future__ import annotations

import pytest

from api.lookup import Under, checked
from contracts.jobs import ImageRef, JobResult, Timings
from contracts.moderation import Verdict
from contracts.reviews import PastDecision, ReviewState
from moderation.policy import parse
from tests.api.conftest import PICTURE, ApiUnderTest

pytestmark = pytest.mark.anyio

POLICY = parse("name: house\nversion: 1\nrules: {weapons: {hashes: review}}", "policy.yaml")
UNDER = Under(POLICY, "public")


async def test_an_image_answers_only_as_long_as_people_release_it(api: ApiUnderTest) -> None:
    """Its file may be there for a tenant with other rules."""
    reviews = api.stores.reviews
    name = await api.stores.blobs.put(PICTURE, "png")
    verdict = Verdict(state="released", categories=("weapons",), policy="house@1", layer="people")
    image = ImageRef(
        name=name,
        width=64,
        height=64,
        seed=1,
        content_type="image/png",
        size_bytes=len(PICTURE),
        moderation=verdict,
        drawn="0" * 64 + ".png",
    )
    result = JobResult(images=(image,), timings=Timings(queued_ms=1, batch_ms=1, encode_ms=1, batch_size=1))
    assert JobResult.model_validate_json(result.model_dump_json()) == result
    await reviews.remember(image.drawn, PastDecision(state=ReviewState.RELEASED, decision_id="d", at=1.0))
    assert await checked(api.stores, "address", result, UNDER) == result
    await reviews.remember(image.drawn, PastDecision(state=ReviewState.WAITING, decision_id="u", at=2.0))
    assert await checked(api.stores, "address", result, UNDER) is None

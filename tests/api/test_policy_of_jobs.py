"""A job says by which policy its images must be judged."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from contracts.models import WorkerInfo
from tests.api.conftest import Opener
from tests.store.test_others import spec

pytestmark = pytest.mark.anyio

PICTURES = """
name: shop
version: 7
pictures: {heads: [{file: 'builtin:heads/weapons.pictures.json'}]}
rules: {weapons: {pictures: {review: 0.5}}}
"""
WORDS = """
name: shop
version: 7
words: {lists: [{file: 'builtin:lists/weapons.en.txt', category: weapons, language: en}]}
rules: {weapons: {words: block}}
"""


def png() -> str:
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


@pytest.mark.parametrize(
    ("policy", "asked", "min_schema"), [(PICTURES, "shop@7", 2), (WORDS, "", 1), (None, "", 1)]
)
@pytest.mark.parametrize("init_image", [False, True])
async def test_a_worker_learns_from_the_job_that_its_images_must_be_judged(
    opened: Opener, tmp_path: Path, policy: str | None, asked: str, min_schema: int, init_image: bool
) -> None:
    """A worker without the policy, or of a version that knows no policies, must show none of them."""
    settings: dict[str, Any] = {}
    if policy is not None:
        path = tmp_path / "policy.yaml"
        path.write_text(policy)
        settings["moderation"] = path
    api = await opened((), **settings)
    model = spec("m").model_copy(update={"init_images": True})
    await api.stores.models.announce(model, WorkerInfo(id="w", model="m", started_at=1.0, steps_per_s=10.0))
    body = {"init_image": png(), "strength": 0.5, "num_inference_steps": 4} if init_image else {}
    for _ in range(2):  # the second one by the remembered plan
        job = await api.submit(cache="off", **body)
        message = api.publisher.published[-1]
        assert (message.request.policy, message.min_schema) == (asked, min_schema)
        assert "policy" not in job

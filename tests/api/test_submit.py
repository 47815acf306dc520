"""What comes between two steps of a submit: another job's end, or a service that is away."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from contracts.models import WorkerInfo
from tests.api.conftest import Door, Opener
from tests.api.files import encoded
from tests.api.test_limits import key
from tests.cache.test_others import spec

pytestmark = pytest.mark.anyio
PICTURE = {
    "init_image": encoded(Image.new("RGB", (80, 40), (200, 10, 20))),
    "strength": 0.5,
    "num_inference_steps": 4,
}


@pytest.fixture
async def door(opened: Opener) -> Door:
    """Its one model may start from a picture."""
    door = await opened(())
    model = spec("m").model_copy(update={"init_images": True})
    worker = WorkerInfo(id="w-m", model="m", started_at=1.0, steps_per_s=10.0)
    await door.stores.models.announce(model, worker)
    return door


@pytest.mark.parametrize(("limits", "more"), [({"images_per_day": 9}, {}), ({}, PICTURE)])
async def test_a_result_that_comes_after_the_look_is_not_computed_again(
    door: Door, monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any], more: dict[str, Any]
) -> None:
    mine, body = await key(door, **limits), {"prompt": "a", **more}
    first = await door.http.post("/v1/jobs", json=body, headers=mine)
    assert (first.status_code, first.json()["cache"]) == (202, "miss"), first.text
    look = door.stores.results.get

    async def get(address: str) -> Any:
        found = await look(address)
        if found is None:
            await door.work()
        return found

    monkeypatch.setattr(door.stores.results, "get", get)
    second = await door.http.post("/v1/jobs", json=body, headers=mine)
    assert (second.status_code, second.json()["cache"]) == (200, "hit"), second.text
    assert len(door.publisher.published) == 1

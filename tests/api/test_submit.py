"""What comes between two steps of a submit: another job's end, or a service that is away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from contracts.errors import StoreUnavailable
from contracts.models import WorkerInfo
from tests.api.conftest import ApiUnderTest, Opener
from tests.api.files import encoded
from tests.api.test_limits import key
from tests.store.test_others import spec

pytestmark = pytest.mark.anyio
PICTURE = {
    "init_image": encoded(Image.new("RGB", (80, 40), (200, 10, 20))),
    "strength": 0.5,
    "num_inference_steps": 4,
}


@pytest.fixture
async def api(opened: Opener) -> ApiUnderTest:
    """Its one model may start from a picture."""
    api = await opened(())
    model = spec("m").model_copy(update={"init_images": True})
    worker = WorkerInfo(id="w-m", model="m", started_at=1.0, steps_per_s=10.0)
    await api.stores.models.announce(model, worker)
    return api


@pytest.mark.parametrize(("limits", "more"), [({"images_per_day": 9}, {}), ({}, PICTURE)])
async def test_a_result_that_comes_after_the_look_is_not_computed_again(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any], more: dict[str, Any]
) -> None:
    mine, body = await key(api, **limits), {"prompt": "a", **more}
    first = await api.http.post("/v1/jobs", json=body, headers=mine)
    assert (first.status_code, first.json()["cache"]) == (202, "miss"), first.text
    look = api.stores.results.get

    async def get(address: str) -> Any:
        found = await look(address)
        if found is None:
            await api.work()
        return found

    monkeypatch.setattr(api.stores.results, "get", get)
    second = await api.http.post("/v1/jobs", json=body, headers=mine)
    assert (second.status_code, second.json()["cache"]) == (200, "hit"), second.text
    assert len(api.publisher.published) == 1


@pytest.mark.parametrize(("header", "left"), [({}, 202), ({"Idempotency-Key": "k"}, 429)])
async def test_a_picture_that_cannot_be_kept_costs_nothing(
    api: ApiUnderTest, tmp_path: Path, header: dict[str, str], left: int
) -> None:
    mine, body = await key(api, concurrent_jobs=1, images_per_day=1), {"prompt": "a", **PICTURE}
    folder = tmp_path / "blobs-0" / "inputs"
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("no directory")
    refused = await api.http.post("/v1/jobs", json=body, headers=mine | header)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "blob_store_unavailable")
    folder.unlink()
    # With an Idempotency-Key a copy may have recorded the job, in another process: its charge stays, for that job.
    other = await api.http.post("/v1/jobs", json={"prompt": "b"}, headers=mine)
    assert other.status_code == left, other.text
    again = await api.http.post("/v1/jobs", json=body, headers=mine | header)
    assert again.status_code == (429 if left == 202 else 202), again.text


async def test_jobs_that_cannot_be_counted_cost_nothing(
    api: ApiUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, body = await key(api, concurrent_jobs=1, images_per_day=1), {"prompt": "a", **PICTURE}

    async def away(*_: Any) -> int:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(api.stores.jobs, "ahead", away)
        assert (await api.http.post("/v1/jobs", json=body, headers=mine)).status_code == 503
    assert (await api.http.post("/v1/jobs", json=body, headers=mine)).status_code == 202

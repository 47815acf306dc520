"""A LoRA adapter from the setting to the picture, through broker, worker and the real engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import Deploy
from tests.worker.test_adapters import make_lora

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]


def test_an_adapter_changes_the_picture_and_none_does_not(deploy: Deploy, tmp_path: Path) -> None:
    stack = deploy(
        rabbitmq=False,
        fake=False,
        DARKROOM_LORAS=f"own={make_lora(tmp_path / 'own', 1)}",
        DARKROOM_MAX_BATCH="2",
    )
    (model,) = stack.http.get("/v1/models").json()["data"]
    assert model["loras"] == ["own"]

    def picture(**body: object) -> str:
        asked = {"prompt": "a red apple", "seed": 7, **body}
        job = stack.http.post("/v1/jobs", json=asked, headers={"Prefer": "wait=60"}).json()
        assert job["status"] == "succeeded", job
        return str(job["images"][0]["url"])

    base, full, half = picture(), picture(lora={"name": "own"}), picture(lora={"name": "own", "scale": 0.5})
    assert len({base, full, half}) == 3
    assert picture(cache="off") == base, "what is computed after an adapter has acted is what was before"
    assert picture(lora={"name": "own"}, cache="off") == full
    refused = stack.http.post("/v1/jobs", json={"prompt": "a", "lora": {"name": "other"}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "lora.name")

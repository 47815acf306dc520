"""`GET /v1/models`, and that what a model announces is drawn."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from tests.integration.wire_contract.site import BASE, FAKE, TURBO, Site, fresh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_models_tells_what_is_served_with_its_limits(site: Site) -> None:
    body = site.alice.http.get("/v1/models").json()
    assert body["object"] == "list"
    models = {model["id"]: model for model in body["data"]}
    assert set(models) == {TURBO, BASE, FAKE}
    assert (models[TURBO]["object"], models[TURBO]["live_workers"]) == ("model", 1)
    assert models[BASE]["max_num_inference_steps"] == 100
    one = site.alice.http.get(f"/v1/models/{BASE}").json()
    assert (one["object"], one["max_num_inference_steps"]) == ("model", 100)
    unknown = site.alice.http.get("/v1/models/none")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


def start_picture() -> str:
    """A red square."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_every_corner_that_a_model_announces_is_drawn(site: Site) -> None:
    """Steps and strength at their limits, and a count for which diffusers makes one step too many. The jobs share batches."""
    models = {model["id"]: model for model in site.alice.http.get("/v1/models").json()["data"]}
    started = {name: model["created"] for name, model in models.items()}
    asked: list[tuple[dict[str, Any], tuple[str, int, float | None], int]] = []
    for name in (TURBO, BASE):
        model = models[name]
        top = model["max_num_inference_steps"]
        counts = {1, 2, 61, top - 1, top} - set(model["refused_num_inference_steps"])
        for steps in sorted(count for count in counts if 1 <= count <= top):
            for strength in (None, 1 / steps, 0.5, 1.0):
                if strength is not None and (not model["init_images"] or int(steps * strength) < 1):
                    continue
                start = {} if strength is None else {"init_image": start_picture(), "strength": strength}
                body = fresh(model=name, num_inference_steps=steps, width=32, height=32, **start)
                expected = steps if strength is None else min(int(steps * strength), steps)
                asked.append((site.alice.submit(**body), (name, steps, strength), expected))
    assert len(asked) > 10
    for job, corner, expected in asked:
        ended = site.alice.ended(job, timeout_s=120.0)
        assert ended["status"] == "succeeded", (corner, ended)
        assert ended["denoising_steps"] == expected, corner
    after = {model["id"]: model for model in site.alice.http.get("/v1/models").json()["data"]}
    assert {name: model["created"] for name, model in after.items()} == started, "no worker was started anew"

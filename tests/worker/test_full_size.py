"""SD-Turbo's layout with random weights, made narrow: the path that the real one takes, 512 x 512 and all."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import make_checkpoint
from contracts.engine import Batch, BatchKey, ImageTask, Pixels
from contracts.settings import WorkerSettings
from worker.engine import checkpoint
from worker.engine.diffusers import DiffusersEngine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint.make(tmp_path_factory.mktemp("models"), narrow=make_checkpoint.SMALL)


def test_it_loads_and_draws_as_sd_turbo_would(folder: Path) -> None:
    assert folder.name == "sd-turbo-random-weights", "nobody shall take it for the real one"
    engine = DiffusersEngine(WorkerSettings(model=str(folder), device="cpu", max_batch=2), "sd-turbo")
    spec = engine.load()
    assert (spec.default_width, spec.size_multiple, spec.default_steps) == (512, 64, 1)
    assert (spec.max_prompt_tokens, spec.default_guidance_scale, spec.max_batch) == (77, 0.0, 2)
    assert spec.attention == "flash"
    key = BatchKey("sd-turbo", 256, 256, guided=False)
    (made,) = engine.advance(Batch(key, (1,), {1: ImageTask("a lighthouse", "", 1)}))
    assert isinstance(made, Pixels)
    assert len(set(made.rgb)) > 50


def test_the_plan_counts_every_weight(folder: Path) -> None:
    found = checkpoint.read(folder)
    assert found.stored_bytes == pytest.approx(found.weights_bytes(2), rel=0.05), "float16, and headers"

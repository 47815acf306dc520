"""Pictures in the making, by the real engine: the model's guess of the end, step by step nearer to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from contracts.engine import Batch, BatchKey, ImageTask, Pixels, Progress
from contracts.settings import WorkerSettings
from tests.worker.drawing import MODELS, picture, psnr
from worker.engine.denoiser import Denoiser
from worker.engine.diffusers import DiffusersEngine
from worker.engine.schedule import denoised, sampler_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

KEY = BatchKey("emoji-base", 64, 64, guided=True)
TASK = ImageTask("a red apple on a blue background", "", 7, 12, 1.5)
SHOWN = (3, 6, 9)


@pytest.fixture(scope="module")
def engine() -> DiffusersEngine:
    made = DiffusersEngine(WorkerSettings(model=str(MODELS / "emoji-base"), device="cpu"), "emoji-base")
    made.load()
    return made


def drawn(
    engine: DiffusersEngine, *tasks: ImageTask
) -> tuple[list[list[tuple[int, int, Pixels]]], list[Pixels]]:
    """Of each task the previews, each with its index and the step that it came after, and the picture."""
    previews: list[list[tuple[int, int, Pixels]]] = [[] for _ in tasks]
    ended: dict[int, Pixels] = {}
    joining = dict(enumerate(tasks))
    while open_ := [number for number in range(len(tasks)) if number not in ended]:
        answers = engine.advance(Batch(KEY, tuple(open_), joining))
        joining = {}
        for number, answer in zip(open_, answers, strict=True):
            if isinstance(answer, Pixels):
                ended[number] = answer
            else:
                assert isinstance(answer, Progress)
                if answer.preview is not None:
                    previews[number].append((answer.preview.index, answer.step, answer.preview.pixels))
    return previews, [ended[number] for number in range(len(tasks))]


@pytest.mark.parametrize("solver", [None, DDIMScheduler, DPMSolverMultistepScheduler])
def test_they_come_after_their_steps_and_nearer_and_nearer_to_the_picture(
    engine: DiffusersEngine, solver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if solver is not None:
        pipeline = engine.pipeline
        made = solver.from_config(pipeline.scheduler.config)
        monkeypatch.setattr(engine, "_denoiser", Denoiser(pipeline, sampler_of(made), engine.prompts))
    (previews,), (end,) = drawn(engine, replace(TASK, previews=SHOWN))
    assert [(index, step) for index, step, _ in previews] == list(enumerate(SHOWN))
    near = [psnr(picture(pixels), picture(end)) for _, _, pixels in previews]
    assert near == sorted(near)
    assert near[-1] > 20, near


def test_who_asks_for_none_gets_none_and_all_get_the_same_pictures(engine: DiffusersEngine) -> None:
    other = replace(TASK, seed=8, num_inference_steps=5)
    (_, nothing), pictures = drawn(engine, replace(TASK, previews=SHOWN), other)
    assert nothing == []
    for task, shared in zip((TASK, other), pictures, strict=True):
        (previews,), (alone,) = drawn(engine, task)
        assert previews == []
        assert psnr(picture(alone), picture(shared)) > 55


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_what_is_clean_is_read_off_what_a_model_predicts(kind: str) -> None:
    torch.manual_seed(1)
    clean, noise, root = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), 0.6
    predictions = {"epsilon": noise, "v_prediction": root * noise - 0.8 * clean, "sample": clean}
    found = denoised(kind, root, root * clean + 0.8 * noise, predictions[kind])
    assert found is not None
    torch.testing.assert_close(found, clean)
    assert denoised("flow", root, clean, noise) is None

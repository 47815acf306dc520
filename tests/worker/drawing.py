"""The real engine and the library's own pipeline, and how pictures of the two are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from contracts.engine import Advanced, Batch, BatchKey, ImageFault, ImageTask, Pixels, Progress
from contracts.models import ModelSpec
from contracts.settings import WorkerSettings
from worker.engine.diffusers import DiffusersEngine

MODELS = Path(__file__).parents[2] / "models"
KEY = BatchKey("emoji-turbo", 64, 64, guided=False)
GUIDED = BatchKey("emoji-turbo", 64, 64, guided=True)
APPLE = ImageTask("a red apple on a blue background", "", 7)
EQUAL_DB = 55.0
"""Pictures count as equal from here on: an error of less than one level of 255 in root mean square."""


@pytest.fixture(scope="module")
def loaded() -> tuple[DiffusersEngine, ModelSpec]:
    settings = WorkerSettings(model=str(MODELS / "emoji-turbo"), device="cpu", max_batch=4)
    engine = DiffusersEngine(settings, "emoji-turbo")
    return engine, engine.load()


@pytest.fixture
def engine(loaded: tuple[DiffusersEngine, ModelSpec]) -> DiffusersEngine:
    return loaded[0]


@pytest.fixture(scope="module")
def plain() -> Any:
    """The library's own pipeline, nothing of ours."""
    pipeline = DiffusionPipeline.from_pretrained(MODELS / "emoji-turbo", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(engine: DiffusersEngine, key: BatchKey, tasks: Sequence[ImageTask]) -> list[Pixels | ImageFault]:
    """All tasks from their first step to their last, together."""
    ended: dict[int, Pixels | ImageFault] = {}
    joining = dict(enumerate(tasks))
    while open_ := [number for number in range(len(tasks)) if number not in ended]:
        answers = engine.advance(Batch(key, tuple(open_), joining))
        joining = {}
        ended.update((n, a) for n, a in zip(open_, answers, strict=True) if not isinstance(a, Progress))
    return [ended[number] for number in range(len(tasks))]


def picture(answer: Advanced) -> np.ndarray[Any, np.dtype[np.float64]]:
    assert isinstance(answer, Pixels)
    return np.frombuffer(answer.rgb, np.uint8).reshape(answer.height, answer.width, 3).astype(np.float64)


def psnr(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    return float(10 * np.log10(255**2 / max(((one - other) ** 2).mean(), 1e-9)))


def of_pipeline(pipeline: Any, task: ImageTask, key: BatchKey) -> np.ndarray[Any, Any]:
    (image,) = pipeline(
        task.prompt,
        negative_prompt=task.negative_prompt,
        width=key.width,
        height=key.height,
        num_inference_steps=task.num_inference_steps,
        guidance_scale=task.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(task.seed),
        output_type="np",
    ).images
    return np.asarray(image * 255, np.float64)

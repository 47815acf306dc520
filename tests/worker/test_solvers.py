"""Solvers that take another number of steps than was asked: engine, batcher, policy and diffusers' own pipeline agree.

The real engine in this process, on the embedded model at a small size, behind a real batcher.
"""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForImage2Image, DiffusionPipeline
from PIL import Image as Picture

from contracts.engine import Batch, BatchKey, ImageTask, Pixels, Progress
from contracts.models import ModelSpec, StepCounts
from contracts.settings import WorkerSettings
from runtime.clock import SystemClock
from scheduler import policy
from tests.worker.hosts import HostHere
from tests.worker.schedulers import DISTILLED, NAMES, made, mend
from worker import active_images
from worker.batcher import Batcher
from worker.engine.denoiser import Denoiser
from worker.engine.diffusers import DiffusersEngine
from worker.engine.messages import Done, Failed
from worker.engine.schedule import sampler_of, step_counts
from worker.images import ImageResult, ScheduleKey

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

BASE = Path(__file__).parents[2] / "models" / "emoji-base"
KEY = BatchKey("emoji-base", 32, 32, guided=False)
EQUAL_DB = 55.0
SD15 = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
"""The scheduler of Stable Diffusion 1.5, but for what the embedded model predicts."""


class Here(HostHere):
    """An engine in this process instead of a child of it."""

    def __init__(self, engine: DiffusersEngine) -> None:
        self.engine = engine
        self.start_here()

    def run_here(self, batch: Batch) -> Done | Failed:
        return Done(self.engine.advance(batch), 0.01)


@pytest.fixture(scope="module")
def loaded() -> tuple[DiffusersEngine, ModelSpec]:
    engine = DiffusersEngine(
        WorkerSettings(model=str(BASE), device="cpu", max_batch=4, torch_threads=1), "emoji-base"
    )
    return engine, engine.load()


@pytest.fixture(scope="module")
def plain() -> Any:
    pipeline = DiffusionPipeline.from_pretrained(BASE, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def apple() -> bytes:
    y, x = np.mgrid[:32, :32]
    inside = (x - 16) ** 2 + (y - 16) ** 2 < 100
    return np.where(inside[..., None], [220, 30, 30], [40, 60, 200]).astype(np.uint8).tobytes()


def of_pipeline(pipeline: Any, task: ImageTask) -> np.ndarray[Any, Any]:
    common: dict[str, Any] = {
        "num_inference_steps": task.num_inference_steps,
        "guidance_scale": 0.0,
        "generator": torch.Generator("cpu").manual_seed(task.seed),
        "output_type": "np",
    }
    if task.init_image is None:
        (image,) = pipeline(task.prompt, width=32, height=32, **common).images
    else:
        start = Picture.frombytes("RGB", (32, 32), task.init_image)
        from_image = AutoPipelineForImage2Image.from_pipe(pipeline)
        from_image.set_progress_bar_config(disable=True)
        (image,) = from_image(task.prompt, image=start, strength=task.strength, **common).images
    return np.asarray(image * 255, np.float64)


def psnr(pixels: Pixels, other: np.ndarray[Any, Any]) -> float:
    mine = np.frombuffer(pixels.rgb, np.uint8).reshape(32, 32, 3).astype(np.float64)
    return float(10 * np.log10(255**2 / max(((mine - other) ** 2).mean(), 1e-9)))


async def drawn(
    engine: DiffusersEngine, spec: ModelSpec, tasks: Sequence[ImageTask]
) -> tuple[list[ImageResult], list[list[Progress]]]:
    """Each task's outcome, and the steps that were told of it, all through one batcher."""
    batcher = Batcher(Here(engine), len(tasks), SystemClock())
    running = asyncio.create_task(batcher.run())
    told: list[list[Progress]] = [[] for _ in tasks]
    futures = [
        batcher.add(KEY, task, ScheduleKey(0.0, math.inf), heard.append)
        for task, heard in zip(tasks, told, strict=True)
    ]
    async with asyncio.timeout(120):
        outcomes = await asyncio.gather(*futures)
    await batcher.stop()
    await running
    return outcomes, told


@pytest.mark.parametrize("name", NAMES)
def test_engine_batcher_policy_and_pipeline_agree(
    name: str, loaded: tuple[DiffusersEngine, ModelSpec], plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, spec = loaded
    flavour = "skip_prk" if name == "PNDMScheduler" else "leading" if name in DISTILLED else "trailing"
    made_of = made(name, flavour, plain.scheduler.config)
    counts = step_counts(made_of, 70)
    monkeypatch.setattr(engine, "_denoiser", Denoiser(engine.pipeline, sampler_of(made_of), engine.prompts))
    asked = [(4, None), (5, 0.5), (2, 0.6), (61 if name not in DISTILLED else 50, None)]
    tasks = [
        ImageTask(
            "a red apple",
            "",
            seed,
            steps,
            0.0,
            None if strength is None else apple(),
            strength,
            denoising_steps=counts.of(steps, strength),
        )
        for seed, (steps, strength) in enumerate(asked)
    ]
    left: list[int] = []
    real = policy.decide

    def decide(now: float, queue: Sequence[policy.Sample], device: policy.Device) -> Any:
        left.extend(sample.steps_left for sample in queue)
        assert all(sample.steps_left >= 1 for sample in queue)
        return real(now, queue, device)

    monkeypatch.setattr(active_images, "decide", decide)
    outcomes, told = asyncio.run(drawn(engine, spec, tasks))
    theirs = made(name, flavour, plain.scheduler.config)
    mend(theirs, monkeypatch)
    monkeypatch.setattr(plain, "scheduler", theirs)
    for task, outcome, steps in zip(tasks, outcomes, told, strict=True):
        assert isinstance(outcome.image, Pixels), (task, outcome)
        expected = range(1, task.steps)
        assert [(each.step, each.steps) for each in steps] == [(n, task.steps) for n in expected]
        assert psnr(outcome.image, of_pipeline(plain, task)) > EQUAL_DB, (
            task.num_inference_steps,
            task.strength,
        )
    assert max(left) == max(task.steps for task in tasks)


def copy_of_base(folder: Path, scheduler: dict[str, Any]) -> Path:
    """The embedded model with another scheduler, as a repository ships it."""
    shutil.copytree(BASE, folder)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(
    ("scheduler", "counts", "limits"),
    [
        (SD15, {1: 1, 25: 26, 100: 101}, (1, 25, 100)),
        ({**SD15, "skip_prk_steps": False}, {3: 0, 4: 13, 25: 34}, (4, 25, 100)),
        ({**SD15, "_class_name": "HeunDiscreteScheduler"}, {1: 1, 25: 49}, (1, 25, 100)),
        ({**SD15, "_class_name": "LCMScheduler"}, {25: 25, 50: 50, 51: 0}, (1, 25, 50)),
    ],
    ids=["PNDM", "PNDM with Runge-Kutta", "Heun", "LCM"],
)
def test_a_model_announces_what_its_solver_does(
    tmp_path: Path, scheduler: dict[str, Any], counts: dict[int, int], limits: tuple[int, int, int]
) -> None:
    folder = copy_of_base(tmp_path / "model", scheduler)
    engine = DiffusersEngine(
        WorkerSettings(model=str(folder), device="cpu", max_batch=1, torch_threads=1), "emoji-base"
    )
    spec = engine.load()
    assert {n: spec.step_counts.of(n) for n in counts} == counts
    assert (spec.min_steps, spec.default_steps, spec.max_steps) == limits
    again = ModelSpec.model_validate_json(spec.model_dump_json())
    assert again == spec, "as the API reads it"


def test_the_announcement_of_a_plain_solver_is_what_it_was(loaded: tuple[DiffusersEngine, ModelSpec]) -> None:
    spec = loaded[1]
    assert spec.step_counts == StepCounts()
    assert "step_counts" not in spec.model_dump_json()
    assert (spec.min_steps, spec.max_steps, spec.refused_steps) == (1, 100, ())

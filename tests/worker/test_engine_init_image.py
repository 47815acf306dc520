"""Starting from a picture in the real engine: against diffusers' own image-to-image pipeline, by every kind of solver and of VAE."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoPipelineForImage2Image,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
)
from PIL import Image

from contracts.engine import Batch, BatchKey, ImageTask, Progress
from contracts.settings import WorkerSettings
from tests.worker.test_adapters import EQUAL_DB, MODEL, draw, picture, psnr
from worker.engine.denoiser import Denoiser
from worker.engine.diffusers import DiffusersEngine
from worker.engine.schedule import sampler_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

KEY = BatchKey("emoji-turbo", 64, 64, guided=False)
WIDE = BatchKey("emoji-turbo", 96, 64, guided=True)


@pytest.fixture(scope="module")
def engine() -> DiffusersEngine:
    settings = WorkerSettings(model=str(MODEL), device="cpu", max_batch=4)
    engine = DiffusersEngine(settings, "emoji-turbo")
    assert engine.load().init_images
    return engine


@pytest.fixture(scope="module")
def plain() -> Any:
    pipeline = AutoPipelineForImage2Image.from_pipe(
        DiffusionPipeline.from_pretrained(MODEL, dtype=torch.float32)
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def apple(width: int = 64, height: int = 64) -> bytes:
    """A red disc on blue."""
    y, x = np.mgrid[:height, :width]
    inside = (x - width / 2) ** 2 + (y - height / 2) ** 2 < (height / 3) ** 2
    return np.where(inside[..., None], [220, 30, 30], [40, 60, 200]).astype(np.uint8).tobytes()


def of_pipeline(pipeline: Any, task: ImageTask, key: BatchKey) -> np.ndarray[Any, Any]:
    assert task.init_image is not None
    (image,) = pipeline(
        task.prompt,
        image=Image.frombytes("RGB", (key.width, key.height), task.init_image),
        strength=task.strength,
        negative_prompt=task.negative_prompt,
        num_inference_steps=task.num_inference_steps,
        guidance_scale=task.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(task.seed),
        output_type="np",
    ).images
    return np.asarray(image * 255, np.float64)


@pytest.mark.parametrize(
    ("key", "task"),
    [
        (KEY, ImageTask("a green apple", "", 7, 4, 0.0, apple(), 0.5)),
        (KEY, ImageTask("a green apple", "", 7, 1, 0.0, apple(), 1.0)),
        (KEY, ImageTask("a green apple", "", 2, 5, 0.0, apple(), 0.3)),
        (WIDE, ImageTask("a rocket", "red", 3, 6, 2.0, apple(96), 0.8)),
    ],
)
def test_it_draws_what_the_pipeline_draws(
    engine: DiffusersEngine, plain: Any, key: BatchKey, task: ImageTask
) -> None:
    (mine,) = draw(engine, key, [task])
    assert psnr(mine, of_pipeline(plain, task, key)) > EQUAL_DB


@pytest.mark.parametrize(
    "scheduler", [DDIMScheduler, DPMSolverMultistepScheduler], ids=lambda each: each.__name__
)
def test_other_solvers_start_in_the_middle_too(
    engine: DiffusersEngine, plain: Any, scheduler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = scheduler.from_config(plain.scheduler.config)
    monkeypatch.setattr(engine, "_denoiser", Denoiser(engine._pipeline, sampler_of(made), engine.prompts))
    monkeypatch.setattr(plain, "scheduler", made)
    task = ImageTask("a green apple", "", 5, 8, 0.0, apple(), 0.6)
    (mine,) = draw(engine, KEY, [task])
    assert psnr(mine, of_pipeline(plain, task, KEY)) > EQUAL_DB


def test_a_vae_that_answers_a_distribution_is_drawn_from_by_the_seed(
    engine: DiffusersEngine, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[16, 16, 16],
        norm_num_groups=8,
        latent_channels=4,
    ).eval()
    monkeypatch.setattr(engine._pipeline, "vae", vae)
    monkeypatch.setattr(plain, "vae", vae)
    task = ImageTask("a green apple", "", 5, 4, 0.0, apple(), 0.5)
    (mine,) = draw(engine, KEY, [task])
    assert psnr(mine, of_pipeline(plain, task, KEY)) > EQUAL_DB
    (other,) = draw(engine, KEY, [ImageTask("a green apple", "", 6, 4, 0.0, apple(), 0.5)])
    assert psnr(mine, other) < EQUAL_DB


def test_less_strength_stays_nearer_to_the_picture(engine: DiffusersEngine) -> None:
    given = np.frombuffer(apple(), np.uint8).reshape(64, 64, 3).astype(np.float64)
    made = [
        draw(engine, KEY, [ImageTask("a green tree", "", 1, 8, 0.0, apple(), strength)])[0]
        for strength in (0.15, 0.5, 1.0)
    ]
    nearness = [psnr(each, given) for each in made]
    assert nearness == sorted(nearness, reverse=True)
    assert nearness[0] > 15


def test_in_one_batch_with_pictures_from_noise_each_is_what_it_is_alone(engine: DiffusersEngine) -> None:
    tasks = [
        ImageTask("a green apple", "", 1, 4, 0.0, apple(), 0.5),
        ImageTask("a green apple", "", 2, 4),
        ImageTask("a tree", "", 3, 8, 0.0, apple()[::-1], 0.9),
    ]
    alone = [draw(engine, KEY, [task])[0] for task in tasks]
    for mine, single in zip(draw(engine, KEY, tasks), alone, strict=True):
        assert psnr(mine, single) > EQUAL_DB


def test_it_takes_its_share_of_the_steps_and_no_more(engine: DiffusersEngine) -> None:
    task = ImageTask("a green apple", "", 1, 8, 0.0, apple(), 0.5)
    answers = [engine.advance(Batch(KEY, (1,), {1: task}))[0]]
    while isinstance(answers[-1], Progress):
        answers += engine.advance(Batch(KEY, (1,)))
    assert len(answers) == 4 == task.steps
    assert picture(answers[-1]).std() > 1

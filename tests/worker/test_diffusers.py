"""The real engine, in this process: batches of samples, against diffusers' own pipeline, and what it makes of bad results."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
)

from contracts.engine import Advanced, Batch, BatchKey, ImageTask, Pixels, Progress
from contracts.failures import OutOfMemory
from contracts.models import ModelSpec
from contracts.settings import WorkerSettings
from tests.worker.drawing import APPLE, EQUAL_DB, GUIDED, KEY, MODELS, draw, of_pipeline, picture, psnr
from tests.worker.drawing import engine as engine
from tests.worker.drawing import loaded as loaded
from tests.worker.drawing import plain as plain
from worker.engine.denoiser import Denoiser
from worker.engine.diffusers import DiffusersEngine
from worker.engine.schedule import CopySampler, EulerSampler, sampler_of

# Of diffusers about itself; nothing of ours can avoid them.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def test_the_specification_is_read_off_the_model(loaded: tuple[DiffusersEngine, ModelSpec]) -> None:
    spec = loaded[1]
    assert (spec.default_width, spec.size_multiple, spec.min_size, spec.max_size) == (64, 16, 32, 96)
    assert (spec.default_steps, spec.default_guidance_scale, spec.dtype) == (1, 0.0, "float32")
    assert (spec.max_prompt_tokens, spec.max_batch, len(spec.revision)) == (20, 4, 16)
    other = DiffusersEngine(
        WorkerSettings(model=str(MODELS / "emoji-base"), device="cpu"), "emoji-base"
    ).load()
    assert other.revision != spec.revision
    assert (other.default_steps, other.default_guidance_scale) == (25, 1.5)


@pytest.mark.parametrize(
    ("task", "key"),
    [
        (APPLE, KEY),
        (ImageTask("a rocket " * 20, "", 3, 4), KEY),
        (ImageTask("a rocket", "red " * 40, 1, 3, 2.5), BatchKey("emoji-turbo", 96, 64, guided=True)),
        (ImageTask("", "", 2**32 - 1, 1), BatchKey("emoji-turbo", 32, 96, guided=False)),
    ],
)
def test_a_sample_alone_is_what_the_pipeline_draws(
    engine: DiffusersEngine, plain: Any, task: ImageTask, key: BatchKey
) -> None:
    (mine,) = draw(engine, key, [task])
    assert psnr(picture(mine), of_pipeline(plain, task, key)) > EQUAL_DB


@pytest.mark.parametrize(
    "scheduler",
    [DPMSolverMultistepScheduler, DDIMScheduler, EulerAncestralDiscreteScheduler],
    ids=lambda each: each.__name__,
)
def test_solvers_with_memory_or_noise_of_their_own_share_batches_too(
    engine: DiffusersEngine, plain: Any, scheduler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = scheduler.from_config(plain.scheduler.config)
    pipeline = engine._pipeline
    monkeypatch.setattr(engine, "_denoiser", Denoiser(pipeline, sampler_of(made), engine.prompts))
    monkeypatch.setattr(plain, "scheduler", made)
    tasks = [
        ImageTask("a red apple", "", 1, 5, 2.0),
        ImageTask("a rocket", "blue", 2, 2, 3.0),
        ImageTask("a rocket", "", 3, 5, 1.5),
    ]
    for task, answer in zip(tasks, draw(engine, GUIDED, tasks), strict=True):
        assert psnr(picture(answer), of_pipeline(plain, task, GUIDED)) > EQUAL_DB


def test_the_euler_solver_is_the_library_s(plain: Any) -> None:
    """Ours in one multiplication against theirs, at every step, for each thing that a model may predict."""
    for prediction in ("epsilon", "v_prediction", "sample"):
        scheduler = type(plain.scheduler).from_config(plain.scheduler.config, prediction_type=prediction)
        ours, theirs = EulerSampler(scheduler), CopySampler(scheduler)
        torch.manual_seed(1)
        latents = torch.randn(2, 4, 8, 8)
        mine, copies = [ours.begin(4), ours.begin(7)], [theirs.begin(4), theirs.begin(7)]
        assert [each.init_noise_sigma for each in mine] == [each.init_noise_sigma for each in copies]
        one = other = latents * torch.tensor([each.init_noise_sigma for each in mine]).view(-1, 1, 1, 1)
        for _ in range(4):
            (read, times), (read_too, times_too) = ours.inputs(mine, one), theirs.inputs(copies, other)
            torch.testing.assert_close(read, read_too, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(times, times_too)
            output = torch.randn(2, 4, 8, 8)
            generators = [torch.Generator(), torch.Generator()]
            one = ours.step(mine, output, one, generators)
            other = theirs.step(copies, output, other, generators)
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
        assert [each.step for each in mine] == [each.step for each in copies] == [4, 4]


def test_samples_join_and_leave_between_steps_and_are_what_they_are_alone(engine: DiffusersEngine) -> None:
    """Random batches of 1, 2, 4 and 25 steps: each picture is the one drawn alone."""
    rng = random.Random(5)
    tasks = [
        ImageTask(f"a {thing} on a {colour} background", "", seed, rng.choice([1, 2, 4, 4, 25]))
        for seed, (thing, colour) in enumerate(
            [(t, c) for t in ("rocket", "cat", "red apple") for c in ("blue", "yellow", "pink")]
        )
    ]
    waiting = dict(enumerate(tasks))
    active: list[int] = []
    ended: dict[int, Advanced] = {}
    batches = 0
    while waiting or active:
        joining = {n: waiting.pop(n) for n in list(waiting)[: rng.randint(0, 3)]}
        active += joining
        part = [n for n in active if n in joining or rng.random() < 0.8]
        if not part:
            continue
        rng.shuffle(part)
        answers = engine.advance(Batch(KEY, tuple(part), joining))
        batches += 1
        for number, answer in zip(part, answers, strict=True):
            if isinstance(answer, Progress):
                assert 1 <= answer.step < answer.steps == tasks[number].num_inference_steps
            else:
                ended[number] = answer
                active.remove(number)
    assert batches < sum(task.num_inference_steps for task in tasks)
    for number, task in enumerate(tasks):
        (alone,) = draw(engine, KEY, [task])
        assert psnr(picture(ended[number]), picture(alone)) > EQUAL_DB


def test_answers_are_in_the_order_of_the_batch_and_ended_samples_are_forgotten(
    engine: DiffusersEngine,
) -> None:
    joining = {4: ImageTask("a rocket", "", 4, 2), 9: APPLE}
    first = engine.advance(Batch(KEY, (9, 4), joining))
    assert isinstance(first[0], Pixels)
    assert first[1] == Progress(1, 2)
    with pytest.raises(ValueError, match="not joined"):
        engine.advance(Batch(KEY, (9,)))
    with pytest.raises(ValueError, match="twice"):
        engine.advance(Batch(KEY, (4, 4)))
    with pytest.raises(ValueError, match="not joined"):
        engine.advance(Batch(KEY, (4,)))


def test_who_leaves_is_forgotten(engine: DiffusersEngine) -> None:
    engine.advance(Batch(KEY, (1, 2), {1: ImageTask("a cat", "", 1, 4), 2: ImageTask("a cat", "", 2, 4)}))
    assert engine.advance(Batch(KEY, (2,), leaving=(1, 77))) == [Progress(2, 4)]
    with pytest.raises(ValueError, match="not joined"):
        engine.advance(Batch(KEY, (1,)))
    engine.advance(Batch(KEY, (3,), {3: APPLE}, leaving=(2,)))
    assert engine._samples == {}


def test_a_prompt_is_encoded_once(engine: DiffusersEngine) -> None:
    prompts = engine.prompts
    prompts.forget()
    before = (prompts.encoded, prompts.skipped)
    (first,) = draw(engine, KEY, [APPLE])
    again = draw(engine, KEY, [ImageTask(APPLE.prompt, "", seed) for seed in (7, 8, 9)])
    assert (prompts.encoded - before[0], prompts.skipped - before[1]) == (1, 3)
    assert psnr(picture(again[0]), picture(first)) > EQUAL_DB
    assert picture(again[1]).tolist() != picture(first).tolist()
    prompts.encode([f"number {n}" for n in range(prompts.capacity)])
    assert len(prompts) == prompts.capacity
    draw(engine, KEY, [APPLE])
    assert prompts.encoded - before[0] == prompts.capacity + 2, "the oldest went"


def test_pictures_and_warnings(engine: DiffusersEngine) -> None:
    tasks = [ImageTask("a rocket on a blue background", "", 1), ImageTask("a rocket " * 20, "", 2)]
    first, long = draw(engine, KEY, tasks)
    assert isinstance(first, Pixels)
    assert isinstance(long, Pixels)
    assert (first.width, first.height, len(first.rgb), first.warnings) == (64, 64, 64 * 64 * 3, ())
    assert "the model read the first 20" in long.warnings[0]
    corner = picture(first)[2, 2]
    assert corner[2] > corner[0] + 60, "blue is the last of red, green, blue"
    (wide,) = draw(
        engine, BatchKey("emoji-turbo", 96, 64, guided=True), [ImageTask("a rocket", "red " * 40, 1, 2, 2.0)]
    )
    assert isinstance(wide, Pixels)
    assert (wide.width, wide.height) == (96, 64)
    assert wide.warnings[0].startswith("negative_prompt has")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_out_of_memory_is_told_apart_and_its_samples_forgotten(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    engine.advance(Batch(KEY, (1, 2), {1: ImageTask("a", "", 1, 3), 2: ImageTask("b", "", 2, 3)}))

    def full(*_: Any, **__: Any) -> Any:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(engine._pipeline.unet, "forward", full)
        with pytest.raises(OutOfMemory, match="1 images of 64 x 64"):
            engine.advance(Batch(KEY, (1,)))
        patched.setattr(engine._pipeline.unet, "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.advance(Batch(KEY, (2,)))
    assert engine._samples == {}


def test_a_guided_image_is_planned_as_two_rows() -> None:
    guided, plain = (
        DiffusersEngine(WorkerSettings(model=str(MODELS / name), device="cpu"), name)
        for name in ("emoji-base", "emoji-turbo")
    )
    assert guided.load().default_guidance_scale > 1
    assert plain.load().default_guidance_scale == 0
    assert guided.plan.denoise_bytes == 2 * plain.plan.denoise_bytes
    assert guided.plan.decode_bytes == plain.plan.decode_bytes

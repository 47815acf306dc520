"""The real engine, in this process: passes of samples, against diffusers' own pipeline, and what it makes of bad results."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
)

from contracts.engine import Advanced, BatchKey, ImageFault, ImageTask, Pass, Pixels, Progress
from contracts.failures import OutOfMemory
from contracts.models import ModelSpec
from contracts.settings import WorkerSettings
from worker.engine import attention
from worker.engine.decode import to_pixels
from worker.engine.diffusers import DiffusersEngine
from worker.engine.errors import CannotLoad
from worker.engine.profiles import DIFFUSION, TURBO, XL, profile_of
from worker.engine.samples import Denoiser, dtype_of
from worker.engine.schedule import CopySampler, EulerSampler, sampler_of

# Of diffusers about itself; nothing of ours can avoid them.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

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
        answers = engine.advance(Pass(key, tuple(open_), joining))
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
def test_solvers_with_memory_or_noise_of_their_own_share_passes_too(
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
        assert [each.noise_scale for each in mine] == [each.noise_scale for each in copies]
        one = other = latents * torch.tensor([each.noise_scale for each in mine]).view(-1, 1, 1, 1)
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
    passes = 0
    while waiting or active:
        joining = {n: waiting.pop(n) for n in list(waiting)[: rng.randint(0, 3)]}
        active += joining
        part = [n for n in active if n in joining or rng.random() < 0.8]
        if not part:
            continue
        rng.shuffle(part)
        answers = engine.advance(Pass(KEY, tuple(part), joining))
        passes += 1
        for number, answer in zip(part, answers, strict=True):
            if isinstance(answer, Progress):
                assert 1 <= answer.step < answer.steps == tasks[number].num_inference_steps
            else:
                ended[number] = answer
                active.remove(number)
    assert passes < sum(task.num_inference_steps for task in tasks)
    for number, task in enumerate(tasks):
        (alone,) = draw(engine, KEY, [task])
        assert psnr(picture(ended[number]), picture(alone)) > EQUAL_DB


def test_answers_are_in_the_order_of_the_pass_and_ended_samples_are_forgotten(
    engine: DiffusersEngine,
) -> None:
    joining = {4: ImageTask("a rocket", "", 4, 2), 9: APPLE}
    first = engine.advance(Pass(KEY, (9, 4), joining))
    assert isinstance(first[0], Pixels)
    assert first[1] == Progress(1, 2)
    with pytest.raises(ValueError, match="not joined"):
        engine.advance(Pass(KEY, (9,)))
    with pytest.raises(ValueError, match="twice"):
        engine.advance(Pass(KEY, (4, 4)))
    with pytest.raises(ValueError, match="not joined"):
        engine.advance(Pass(KEY, (4,)))


def test_who_leaves_is_forgotten(engine: DiffusersEngine) -> None:
    engine.advance(Pass(KEY, (1, 2), {1: ImageTask("a cat", "", 1, 4), 2: ImageTask("a cat", "", 2, 4)}))
    assert engine.advance(Pass(KEY, (2,), leaving=(1, 77))) == [Progress(2, 4)]
    with pytest.raises(ValueError, match="not joined"):
        engine.advance(Pass(KEY, (1,)))
    engine.advance(Pass(KEY, (3,), {3: APPLE}, leaving=(2,)))
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
    draw(engine, KEY, [ImageTask(f"number {n}", "", 1) for n in range(prompts.capacity)])
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
    ("value", "says"),
    [(float("nan"), "no numbers"), (float("inf"), "no numbers"), (-1.0, "black"), (-0.99, "black")],
)
def test_what_is_no_picture_is_a_fault_of_its_image_alone(value: float, says: str) -> None:
    spotted = torch.zeros(3, 64, 64)
    spotted[1, 5, 5] = value
    whole = torch.full((3, 64, 64), value)
    images = torch.stack([torch.rand(3, 64, 64), whole if says == "black" else spotted])
    good, bad = to_pixels(images, [("note",), ()], finite=torch.tensor([True, True]))
    assert isinstance(good, Pixels)
    assert good.warnings == ("note",)
    assert isinstance(bad, ImageFault)
    assert bad.code == "invalid_output"
    assert says in bad.message


@pytest.fixture
def half() -> DiffusersEngine:
    settings = WorkerSettings(model=str(MODELS / "emoji-turbo"), device="cpu", precision="bfloat16")
    engine = DiffusersEngine(settings, "emoji-turbo")
    engine.load()
    return engine


def test_a_picture_that_half_precision_spoils_is_drawn_again_in_single(
    half: DiffusersEngine, engine: DiffusersEngine
) -> None:
    """As a layer that overflows: its output is infinite unless it runs in float32."""
    unet = half._pipeline.unet
    processors = dict(unet.attn_processors)
    runs: list[torch.dtype] = []

    def spoil(_: Any, __: Any, output: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        runs.append(output[0].dtype)
        return (output[0] * float("inf"),) if output[0].dtype is torch.bfloat16 else output

    handle = unet.register_forward_hook(spoil)
    try:
        (again,) = draw(half, KEY, [APPLE])
    finally:
        handle.remove()
    assert runs == [torch.bfloat16, torch.float32]
    (single,) = draw(engine, KEY, [APPLE])
    assert psnr(picture(again), picture(single)) > 30, "the weights have been through bfloat16"
    assert {each.dtype for each in unet.parameters()} == {torch.bfloat16}
    assert unet.attn_processors == processors
    (after,) = draw(half, KEY, [APPLE])
    assert isinstance(after, Pixels)


def test_single_precision_is_not_asked_of_a_kernel_that_has_none(
    half: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PyTorch's flash kernel on CUDA, which raises for float32: golden pictures are drawn in it."""

    class HalfOnly(attention.Kernel):
        def __call__(self) -> AbstractContextManager[Any]:
            assert dtype_of(half._pipeline.unet) is torch.bfloat16
            return super().__call__()

    monkeypatch.setattr(half, "_kernel", HalfOnly("flash", half._pipeline.unet.device))
    assert isinstance(half._again(KEY, APPLE), Pixels)
    with half._in_float32():
        (drawn,) = draw(half, KEY, [APPLE])
    assert isinstance(drawn, Pixels)
    assert isinstance(half._kernel, HalfOnly)


def test_a_picture_that_is_none_in_single_precision_either_is_a_fault(half: DiffusersEngine) -> None:
    handle = half._pipeline.unet.register_forward_hook(lambda *a: (a[2][0] * float("nan"),))
    try:
        bad, *_ = draw(half, KEY, [APPLE])
    finally:
        handle.remove()
    assert isinstance(bad, ImageFault)
    assert bad.code == "invalid_output"


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
    engine.advance(Pass(KEY, (1, 2), {1: ImageTask("a", "", 1, 3), 2: ImageTask("b", "", 2, 3)}))

    def full(*_: Any, **__: Any) -> Any:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(engine._pipeline.unet, "forward", full)
        with pytest.raises(OutOfMemory, match="1 images of 64 x 64"):
            engine.advance(Pass(KEY, (1,)))
        patched.setattr(engine._pipeline.unet, "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.advance(Pass(KEY, (2,)))
    assert engine._samples == {}


def test_profiles_by_name() -> None:
    assert profile_of("sd-turbo") == profile_of("sdxl-turbo") == TURBO
    assert profile_of("stable-diffusion-xl-base-1.0") == XL
    assert profile_of("stable-diffusion-v1-5") == DIFFUSION


def test_a_models_folder_says_what_the_model_can_do_whatever_it_is_called(tmp_path: Path) -> None:
    turbo = profile_of("a", MODELS / "emoji-turbo")
    assert (turbo.steps, turbo.max_steps, turbo.distilled, turbo.init_images) == (1, 1, True, False)
    base = profile_of("some-turbo", MODELS / "emoji-base")
    assert (base.steps, base.max_steps, base.guidance_scale, base.init_images) == (25, 100, 1.5, True)
    (tmp_path / "darkroom.json").write_text('{"max_num_inference_steps": 4}')
    assert profile_of("sd-turbo", tmp_path) == replace(TURBO, max_steps=4), "the rest is what the name says"
    assert profile_of("sd-turbo", tmp_path, max_steps=6).max_steps == 6, "the operator knows better"
    assert profile_of("sd-v1-5", max_steps=10).steps == 10


def test_a_model_that_is_named_from_another_folder_says_what_it_can_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`models/emoji-turbo` is found beside our packages, and so is what it says of itself."""
    monkeypatch.chdir(tmp_path)
    spec = DiffusersEngine(WorkerSettings(model="models/emoji-turbo", device="cpu"), "emoji-turbo").load()
    assert (spec.max_steps, spec.init_images) == (1, False)
    assert spec.description


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Invalid JSON"),
        ("[]", "object"),
        ('{"max_num_inference_steps": 0}', "max_num_inference_steps: "),
        ('{"max_steps": 4}', "max_steps: "),
        ('{"default_num_inference_steps": 9}', "above its maximum"),
        ('{"default_guidance_scale": 5}', "above its maximum"),
    ],
)
def test_a_folder_that_says_nonsense_is_refused_by_name(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "darkroom.json").write_text(text)
    with pytest.raises(CannotLoad, match=f"darkroom.json: .*{reason}"):
        profile_of("sd-turbo", tmp_path)


def test_emoji_turbo_announces_one_step_and_no_pictures_to_start_from() -> None:
    settings = WorkerSettings(model=str(MODELS / "emoji-turbo"), device="cpu")
    spec = DiffusersEngine(settings, "any-name").load()
    assert (spec.default_steps, spec.max_steps, spec.init_images) == (1, 1, False)
    more = settings.model_copy(update={"max_num_inference_steps": 4})
    spec = DiffusersEngine(more, "any-name").load()
    assert (spec.default_steps, spec.max_steps, spec.init_images) == (1, 4, True)


def test_a_guided_image_is_planned_as_two_rows() -> None:
    guided, plain = (
        DiffusersEngine(WorkerSettings(model=str(MODELS / name), device="cpu"), name)
        for name in ("emoji-base", "emoji-turbo")
    )
    assert guided.load().default_guidance_scale > 1
    assert plain.load().default_guidance_scale == 0
    assert guided.plan.denoise_bytes == 2 * plain.plan.denoise_bytes
    assert guided.plan.decode_bytes == plain.plan.decode_bytes

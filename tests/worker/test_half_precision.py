"""Pictures that half precision spoils are drawn again in single precision."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

from contracts.engine import ImageFault, Pixels
from contracts.settings import WorkerSettings
from tests.worker.drawing import APPLE, KEY, MODELS, draw, picture, psnr
from tests.worker.drawing import engine as engine
from tests.worker.drawing import loaded as loaded
from worker.engine import attention
from worker.engine.denoiser import dtype_of
from worker.engine.diffusers import DiffusersEngine

# Of diffusers about itself; nothing of ours can avoid them.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


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

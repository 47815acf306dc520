"""Attention: the kernel that was asked for is the one that runs, or the worker does not start."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from torch.profiler import ProfilerActivity, profile

from worker.engine import attention
from worker.engine.attention import Kernel, Processor, candidates, install
from worker.engine.errors import ModelLoadError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

UNET = Path(__file__).parents[2] / "models" / "emoji-turbo" / "unet"
FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"
MATH = "aten::_scaled_dot_product_attention_math"
CPU = torch.device("cpu")


@pytest.fixture
def unet() -> Any:
    return UNet2DConditionModel.from_pretrained(UNET, dtype=torch.float32)


def run(unet: Any, kernel: Kernel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    states = torch.randn(2, 20, 128, generator=generator)
    with torch.inference_mode(), kernel():
        answer: torch.Tensor = unet(latents, torch.tensor([999.0, 500.0]), states, return_dict=False)[0]
    return answer


def kernels_of(unet: Any, kernel: Kernel) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run(unet, kernel)
    return {event.key for event in seen.key_averages()} & {FLASH, MATH}


@pytest.mark.parametrize(
    ("wish", "picked", "runs"),
    [("auto", "flash", FLASH), ("flash", "flash", FLASH), ("math", "math", MATH), ("sdpa", "sdpa", FLASH)],
)
def test_the_profiler_sees_the_kernel_that_was_asked_for(
    unet: Any, wish: str, picked: str, runs: str
) -> None:
    kernel = install(unet, wish)
    assert kernel.name == picked
    assert kernels_of(unet, kernel) == {runs}


@pytest.mark.parametrize("fused", [False, True])
def test_the_processor_computes_what_the_library_s_does(unet: Any, fused: bool) -> None:
    unet.set_attn_processor(AttnProcessor2_0())
    theirs = run(unet, Kernel("sdpa", CPU))
    parameters = sum(each.numel() for each in unet.parameters())
    kernel = install(unet, "flash")
    if fused:
        attention.fuse_projections(unet)
    torch.testing.assert_close(run(unet, kernel), theirs, rtol=1e-4, atol=1e-4)
    assert sum(each.numel() for each in unet.parameters()) == parameters


@pytest.mark.parametrize("wish", ["xformers", "sage"])
def test_a_wish_that_cannot_be_met_stops_with_the_reason(unet: Any, wish: str) -> None:
    with pytest.raises(ModelLoadError, match=f"DARKROOM_ATTENTION={wish} cannot run on cpu .*for CUDA only"):
        install(unet, wish)


def test_auto_goes_by_device_and_by_what_is_installed() -> None:
    assert candidates("auto", "cuda", ["xformers", "sage"]) == ["xformers", "flash", "sdpa"]
    assert candidates("auto", "cuda", []) == ["flash", "sdpa"]
    assert candidates("auto", "cpu", ["xformers"]) == ["flash", "sdpa"]
    assert candidates("sage", "cpu", []) == ["sage"]


def test_a_kernel_that_refuses_gives_way_to_the_next(unet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Kernel, *_: Any) -> None:
        if self.name == "flash":
            raise RuntimeError("No available kernel.\nmore")

    monkeypatch.setattr(Kernel, "try_out", refuse)
    assert install(unet, "auto").name == "sdpa"
    with pytest.raises(ModelLoadError, match=r"flash: No available kernel\.$"):
        install(unet, "flash")


@pytest.mark.parametrize("name", ["xformers", "sage"])
def test_packages_for_cuda_are_called_with_their_own_layout(
    unet: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins that compute the same in PyTorch and note the shapes: nothing here has a GPU."""
    shapes: list[torch.Size] = []

    def by_tokens(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        shapes.append(q.shape)
        turned = [each.transpose(1, 2) for each in (q, k, v)]
        return F.scaled_dot_product_attention(turned[0], turned[1], turned[2]).transpose(1, 2)

    def by_heads(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, tensor_layout: str, is_causal: bool
    ) -> Any:
        assert (tensor_layout, is_causal) == ("HND", False)
        shapes.append(q.shape)
        return F.scaled_dot_product_attention(q, k, v)

    modules = {
        "xformers": ModuleType("xformers"),
        "xformers.ops": SimpleNamespace(memory_efficient_attention=by_tokens),
        "sageattention": SimpleNamespace(sageattn=by_heads),
    }
    for each, module in modules.items():
        monkeypatch.setitem(sys.modules, each, module)
    monkeypatch.setattr(attention, "SAGE_WIDTHS", (48,))
    unet.set_attn_processor(AttnProcessor2_0())
    theirs = run(unet, Kernel("sdpa", CPU))
    cuda = SimpleNamespace(type="cuda")
    kernel = Kernel(name, cuda)  # type: ignore[arg-type]
    unet.set_attn_processor(Processor(kernel.attend))
    torch.testing.assert_close(run(unet, kernel), theirs, rtol=1e-4, atol=1e-4)
    (width,) = attention.head_widths(unet)
    assert width == 48
    assert {shape[1 if name == "sage" else 2] for shape in shapes} == {4}
    assert {shape[-1] for shape in shapes} == {48}

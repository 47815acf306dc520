"""Int8 weights, the quality floor, and the memory plan: figures that an operator relies on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from contracts.engine import ImageFault, Pixels
from worker.engine import device, quality
from worker.engine.device import Device, pick
from worker.engine.errors import ModelLoadError
from worker.engine.memory_plan import RESERVE, Plan, peak_of
from worker.engine.quantised_layers import Int8Conv2d, Int8Linear, quantise, size_bytes

GIB = 1 << 30
MODELS = Path(__file__).parents[2] / "models"


def layers() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(32, 64, 3, padding=1, stride=2),
        nn.Flatten(2),
        nn.Linear(64, 256),
        nn.Linear(256, 4, bias=False),
    )


def test_int8_layers_answer_nearly_the_same_from_a_quarter_of_the_bytes() -> None:
    model = layers()
    x = torch.randn(2, 32, 16, 16)
    before, size = model(x), size_bytes(model)
    assert list(quantise(model)) == ["0", "2"], "the last layer is too small to gain"
    assert [type(each) for each in model] == [Int8Conv2d, nn.Flatten, Int8Linear, nn.Linear]
    after = model(x)
    noise = (after - before).square().mean() / before.square().mean()
    assert 0 < noise < 1e-4
    assert size / size_bytes(model) > 3.0
    assert {each.dtype for each in model.to(torch.bfloat16)[0].buffers()} == {torch.int8, torch.bfloat16}


def test_int8_weights_are_within_half_a_level() -> None:
    layer = nn.Linear(128, 64)
    with torch.no_grad():
        layer.weight[3] = 0
        layer.weight[4] *= 1000
    made = Int8Linear(layer)
    step = layer.weight.abs().amax(1, keepdim=True) / 127
    assert ((made.weight - layer.weight).abs() <= step / 2 * 1.0001 + 1e-12).all()
    assert made.weight[3].abs().max() == 0
    x = torch.randn(3, 128)
    torch.testing.assert_close(made(x), F.linear(x, made.weight, layer.bias))


def test_layers_that_compute_something_else_are_left_alone() -> None:
    class Own(nn.Linear):
        pass

    model = nn.Sequential(Own(128, 64), nn.Conv2d(32, 64, 3, padding_mode="circular"))
    assert not quantise(model)


def _pixels(value: int) -> Pixels:
    return Pixels(2, 2, bytes([value] * 12))


def test_the_floor_refuses_pictures_that_are_too_far_off() -> None:
    assert quality.psnr_db(_pixels(9), _pixels(9)) == quality.EQUAL_DB
    assert quality.psnr_db(_pixels(0), _pixels(255)) == pytest.approx(0)
    near, far = [_pixels(10), _pixels(20)], [_pixels(11), _pixels(22)]
    measured = quality.measure(near, far)
    assert measured.psnr_db == pytest.approx((48.13 + 42.11) / 2, abs=0.01)
    quality.gate(measured, quality.Floor(40, 0.9))
    with pytest.raises(
        ModelLoadError, match=r"45\.1 dB from its own in float32, below DARKROOM_QUALITY_FLOOR_DB=46"
    ):
        quality.gate(measured, quality.Floor(46))
    with pytest.raises(ModelLoadError, match=r"90\.0 dB and 0\.500 by CLIP .*_CLIP=0\.9"):
        quality.gate(quality.Quality(90, 0.5), quality.Floor(20, 0.9))
    with pytest.raises(ModelLoadError, match="made no image"):
        quality.measure(near, [_pixels(1), ImageFault("invalid_output", "black")])


def test_clip_sees_what_the_peak_signal_to_noise_ratio_does_not(tmp_path: Path) -> None:
    """A picture moved by four pixels is the same to CLIP, and another one by PSNR; a picture of something else is neither."""
    clip = quality.Clip(str(MODELS / "emoji-clip"))
    rng = np.random.default_rng(0)
    ground = np.full((128, 128, 3), 220, np.uint8)
    disc = ground.copy()
    rows, columns = np.mgrid[:128, :128]
    disc[(rows - 60) ** 2 + (columns - 60) ** 2 < 1600] = (200, 30, 30)
    moved = np.roll(disc, 4, 1)
    other = rng.integers(0, 255, disc.shape, np.uint8)
    near, far = (quality.measure([_of(disc)], [_of(each)], clip) for each in (moved, other))
    assert near.clip is not None
    assert far.clip is not None
    assert near.psnr_db < 25
    assert near.clip > 0.95 > far.clip + 0.1
    assert clip.similarity([_of(disc)], [_of(disc)]) == pytest.approx([1.0], abs=1e-5)
    with pytest.raises(ModelLoadError, match=r"DARKROOM_QUALITY_CLIP=.* cannot be loaded"):
        quality.Clip(str(tmp_path))


def _of(levels: np.ndarray) -> Pixels:
    return Pixels(levels.shape[1], levels.shape[0], levels.tobytes())


def test_golden_prompts_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\n\n a dog \n")
    assert quality.prompts(path, "SETTING") == ["a cat", "a dog"]
    assert len(quality.prompts(None, "SETTING")) == 4
    path.write_text("\n")
    with pytest.raises(ModelLoadError, match=r"SETTING=.* holds no prompt"):
        quality.prompts(path, "SETTING")
    with pytest.raises(ModelLoadError, match="FileNotFoundError"):
        quality.prompts(tmp_path / "none", "SETTING")


def test_the_plan_says_how_many_fit_and_refuses_with_numbers() -> None:
    plan = Plan(2 * GIB, GIB // 4, GIB, 4 * GIB)
    assert plan.largest_batch(32) == int((4 - 2 * 1.05) / (0.25 * RESERVE)) == 6
    assert plan.largest_batch(4) == 4
    assert plan.decodes_whole(1)
    assert not plan.decodes_whole(4)
    with pytest.raises(
        ModelLoadError, match=r"weights take 2,048 MiB, one image 1,280 MiB more, and 3,072 MiB are free"
    ):
        Plan(2 * GIB, GIB // 4, GIB, 3 * GIB).largest_batch(8)


@pytest.mark.parametrize("where", ["meta", "cpu"])
def test_the_peak_counts_what_lives_at_one_time(where: str) -> None:
    """Three tensors of 4 MB are made, two live at once; views and writes in place add nothing."""

    def chain() -> None:
        x = torch.zeros(1 << 20, device=where)
        x = x + 1
        x.add_(1)
        x = x.view(2, -1)[0].expand(2, -1)
        x = x * 2
        del x

    assert peak_of(chain) == 8 << 20


@pytest.mark.parametrize("batch", [1, 3])
def test_meta_tells_the_peak_of_the_real_batch(batch: int) -> None:
    def peak(where: str) -> int:
        model = layers().to(where)
        return peak_of(lambda: model(torch.zeros(batch, 32, 16, 16, device=where)))

    assert peak("meta") == pytest.approx(peak("cpu"), rel=0.02)


def test_fp8_wants_a_device_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelLoadError, match=r"DARKROOM_QUANTISE=fp8: .* does not multiply"):
        Device("cpu").can_quantise("fp8")
    for way in ("none", "int8", "int8-dynamic"):
        Device("cpu").can_quantise(way)
    capability = (8, 6)
    cuda = SimpleNamespace(get_device_name=lambda _: "A Card", get_device_capability=lambda name: capability)
    monkeypatch.setattr(torch, "cuda", cuda)
    with pytest.raises(ModelLoadError, match="A Card does not multiply"):
        Device("cuda").can_quantise("fp8")
    capability = (9, 0)
    Device("cuda").can_quantise("fp8")


def test_devices_that_are_not_there_stop_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(is_available=lambda: False, device_count=lambda: 2)
    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    assert pick("auto") == pick("cpu") == Device("cpu")
    with pytest.raises(ModelLoadError, match="DARKROOM_DEVICE=cuda"):
        pick("cuda")
    cuda.is_available = lambda: True
    assert pick("auto") == Device("cuda")
    assert pick("cuda:1") == Device("cuda:1")
    with pytest.raises(ModelLoadError, match="there are 2 devices"):
        pick("cuda:2")


def test_what_is_asked_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []

    def told(name: str, answer: Any) -> Callable[..., Any]:
        def call(*args: Any, **_: Any) -> Any:
            calls.append((name, args))
            return answer

        return call

    fake = {
        "get_device_name": "A Card",
        "mem_get_info": (3 * GIB, 8 * GIB),
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 5,
        "empty_cache": None,
        "synchronize": None,
        "is_bf16_supported": False,
    }
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(**{k: told(k, v) for k, v in fake.items()}))
    card = Device("cuda:1")
    card.begin_peak()
    card.free_cache()
    assert (card.kind, card.name, card.free_bytes(), card.peak_bytes()) == ("cuda", "A Card", 3 * GIB, 5)
    assert ("max_memory_allocated", ("cuda:1",)) in calls
    assert card.dtype("auto") is torch.float16
    assert card.dtype("float32") is torch.float32
    with pytest.raises(ModelLoadError, match="A Card cannot compute in it"):
        card.dtype("bfloat16")


def test_what_a_cpu_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Device("cpu")
    assert here.name
    assert here.dtype("auto") is torch.float32
    assert here.peak_bytes() is None
    here.begin_peak()
    here.free_cache()
    device.keep_memory()
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    monkeypatch.setattr(device, "_CGROUP", tmp_path)
    assert here.free_bytes() == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert here.free_bytes() > 1 << 20

"""Eight-bit arithmetic, and calibration: which layers stay in float, judged by pictures that had no part in the choice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from contracts.engine import Pixels
from contracts.settings import WorkerSettings
from worker.engine.diffusers import DiffusersEngine
from worker.engine.errors import ModelLoadError
from worker.engine.quantised_layers import (
    Fp8Linear,
    Int8Conv2d,
    Int8DynamicLinear,
    Int8Linear,
    quantise,
    quantise_layer,
    restore,
)
from worker.engine.quantising import Quantiser

MODEL = Path(__file__).parents[2] / "models" / "emoji-turbo"


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(5)
    with torch.inference_mode():
        yield


def noise(made: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((made - wanted).square().mean() / wanted.square().mean())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 50, 64), (3, 64), (1, 64)])
def test_integers_by_integers_are_what_they_stand_for(shape: tuple[int, ...], bias: bool) -> None:
    """Exactly the product of the rounded input and the rounded weight; and near to that of neither."""
    layer = nn.Linear(64, 72, bias=bias)
    made = Int8DynamicLinear(layer)
    x = torch.randn(shape) * torch.logspace(-2, 2, shape[-2] if len(shape) == 3 else shape[0]).view(-1, 1)
    step = x.abs().amax(-1, keepdim=True) / 127
    exact = nn.functional.linear((x / step).round() * step, made.weight, made.bias)
    torch.testing.assert_close(made(x), exact, rtol=1e-4, atol=1e-4)
    assert 0 < noise(made(x), layer(x)) < 3e-4
    assert made(x).shape == layer(x).shape


def test_a_row_s_levels_are_its_own() -> None:
    """Company a thousand times larger changes no bit: pictures do not depend on what shares their batch."""
    made = Int8DynamicLinear(nn.Linear(64, 64))
    x = torch.randn(40, 64)
    assert torch.equal(made(torch.cat([x, x * 1000]))[:40], made(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fp8_by_fp8(dtype: torch.dtype) -> None:
    layer = nn.Linear(64, 80)
    x = torch.randn(2, 30, 64)
    wanted = layer(x)
    made = Fp8Linear(layer, float(x.abs().max()))
    made.to(torch.float16).to(dtype)  # no conversion touches the bits
    answer = made(x.to(dtype))
    assert answer.dtype == dtype
    assert 0 < noise(answer.float(), wanted) < 2e-3, "three bits of mantissa, twice"
    # Company does not matter, and what calibration has not seen is cut off, not NaN.
    assert torch.equal(made(torch.cat([x, x * 1000]).to(dtype))[:2], answer)
    assert made((x * 1e6).to(dtype)).isfinite().all()


def test_each_way_takes_the_layers_that_it_has_arithmetic_for() -> None:
    even, odd, conv = nn.Linear(64, 64), nn.Linear(68, 70), nn.Conv2d(32, 32, 3)
    kinds = {
        way: [type(quantise_layer(layer, way, 1.0)) for layer in (even, odd, conv)]
        for way in ("int8", "int8-dynamic", "fp8")
    }
    assert kinds == {
        "int8": [Int8Linear, Int8Linear, Int8Conv2d],
        "int8-dynamic": [Int8DynamicLinear, Int8Linear, Int8Conv2d],
        "fp8": [Fp8Linear, type(None), type(None)],
    }
    assert quantise_layer(even, "fp8") is None, "not calibrated"


def test_what_was_replaced_can_be_put_back() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Sequential(nn.Linear(64, 64)))
    x = torch.randn(3, 64)
    wanted = model(x)
    replaced = quantise(model, "int8", keep={"0"})
    assert list(replaced) == ["1.0"]
    assert not torch.equal(model(x), wanted)
    restore(model, replaced)
    assert torch.equal(model(x), wanted)


class Painter:
    """A picture straight from two layers, the second with one weight that makes its eight bits coarse."""

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 192, bias=False))
        first, second = self.model
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        with torch.no_grad():
            second.weight[:, 0] = 1000.0
            first.weight[0] = 0.0
            first.bias[0] = 0.0

    def draw(self, prompt: str) -> Pixels:
        generator = torch.Generator().manual_seed(len(prompt))
        made = self.model(torch.randn(1, 64, generator=generator))
        return Pixels(8, 8, (made * 60 + 128).clamp(0, 255).to(torch.uint8).numpy().tobytes())


def quantiser(painter: Painter, **settings: object) -> Quantiser:
    read = WorkerSettings.model_validate({"quantise": "int8", "quality_floor_db": 35.0} | settings)
    return Quantiser(read, {"unet": painter.model}, painter.draw, nullcontext)


def test_calibration_keeps_the_layer_that_suffers_and_no_more(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"below DARKROOM_QUALITY_FLOOR_DB=35 .*CALIBRATION_PROMPTS"):
        quantiser(Painter()).run()
    path = tmp_path / "prompts.txt"
    path.write_text("a\nab\nabc\n")
    painter = Painter()
    made = quantiser(painter, calibration_prompts=path).run()
    assert made.kept == ("unet.1",)
    assert [type(each) for each in painter.model] == [Int8Linear, nn.Linear]
    assert made.quality.psnr_db > 35
    assert 1 < made.shrink < 2, "a quarter of the model is in eight bits"


def test_what_no_choice_can_help_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a\n")
    with pytest.raises(ModelLoadError, match=r"below DARKROOM_QUALITY_FLOOR_DB=99"):
        quantiser(Painter(), calibration_prompts=path, quality_floor_db=99.0).run()
    with pytest.raises(ModelLoadError, match=r"DARKROOM_CALIBRATION_PROMPTS=.*FileNotFoundError"):
        quantiser(Painter(), calibration_prompts=tmp_path / "none")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_engine_quantises_what_it_runs(tmp_path: Path) -> None:
    """The fused projections too; and the calibration prompts are part of the cache key."""
    path = tmp_path / "prompts.txt"
    path.write_text("a yellow star on a green background\n")
    settings = WorkerSettings.model_validate(
        {
            "model": str(MODEL),
            "device": "cpu",
            "quantise": "int8-dynamic",
            "calibration_prompts": path,
            "quality_clip": str(MODEL.parent / "emoji-clip"),
        }
    )
    engine = DiffusersEngine(settings, "emoji-turbo")
    dtype = engine.load().dtype
    assert dtype.startswith("float32-int8-dynamic-")
    assert len(dtype) == len("float32-int8-dynamic-") + 8
    names = {
        name for name, each in engine.pipeline.unet.named_modules() if isinstance(each, Int8DynamicLinear)
    }
    assert any(name.endswith("to_qkv") for name in names)
    with pytest.raises(ModelLoadError, match="DARKROOM_QUANTISE=fp8"):
        DiffusersEngine(settings.model_copy(update={"quantise": "fp8"}), "emoji-turbo")

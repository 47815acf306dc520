"""Folders that cannot be served, and what the operator is told."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

from contracts.settings import WorkerSettings
from worker.engine import checkpoint
from worker.engine.device import Device
from worker.engine.diffusers import DiffusersEngine
from worker.engine.errors import ModelLoadError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

MODEL = Path(__file__).parents[2] / "models" / "emoji-turbo"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODEL, tmp_path / "emoji-turbo"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"weight": torch.zeros(1)}, folder / "unet" / "diffusion_pytorch_model.bin")


def misfit(folder: Path) -> None:
    save_file({"conv_in.weight": torch.zeros(48, 5, 3, 3)}, folder / WEIGHTS)


def headed(entry: object, folder: Path) -> None:
    """Weights of one tensor, described by `entry`."""
    header = json.dumps({"conv_in.weight": entry}).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder's index": (lambda f: (f / "model_index.json").unlink(), "no model in diffusers format"),
    "index no JSON": (lambda f: (f / "model_index.json").write_text("{"), "is no JSON"),
    "index a list": (lambda f: (f / "model_index.json").write_text("[]"), "is no JSON object"),
    "another kind": (
        lambda f: edit(f / "model_index.json", _class_name="FluxPipeline"),
        "a FluxPipeline does not fit",
    ),
    "own code": (lambda f: edit(f / "model_index.json", unet=["my_code", "MyUNet"]), "wants code of its own"),
    "no component": (lambda f: shutil.rmtree(f / "vae"), "vae is missing"),
    "unnamed component": (lambda f: edit(f / "model_index.json", vae=[None, None]), "names no vae"),
    "no configuration": (lambda f: (f / "unet" / "config.json").unlink(), "config.json is missing"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "has no weights"),
    "pickled": (pickled, "is a pickle, which can run code"),
    "cut short": (cut, "was cut short"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "no safetensors file, or was cut short"),
    "no header": (
        lambda f: (f / WEIGHTS).write_bytes(b"\x05" + b"\0" * 7 + b"hello world"),
        "no safetensors file, .*: invalid JSON in header",
    ),
    **{
        f"header with {what}": (partial(headed, entry), f"{WEIGHTS} is no safetensors file, .*: {says}")
        for what, entry, says in (
            ("no tensor", 1, "invalid type"),
            ("no dtype", {"shape": [1], "data_offsets": [0, 4]}, "missing field `dtype`"),
            ("another size", {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}, "invalid shape"),
            ("a hole", {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}, "invalid offset"),
            (
                "an unknown dtype",
                {"dtype": "F12", "shape": [1], "data_offsets": [0, 4]},
                "unknown variant `F12`",
            ),
        )
    },
    "complex": (
        lambda f: save_file({"w": torch.zeros(1, dtype=torch.int8)}, f / WEIGHTS),
        "numbers of type I8",
    ),
    "missing shard": (
        lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "part-2.safetensors"}}'
        ),
        "part-2.safetensors is missing",
    ),
    "misfit weights": (misfit, "emoji-turbo: "),
    "strange UNet": (
        lambda f: edit(f / "unet" / "config.json", down_block_types=["Nope"]),
        "does not describe a UNet",
    ),
    "strange VAE": (
        lambda f: edit(f / "vae" / "config.json", _class_name="Telescope"),
        "no decoder .*: Telescope",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_folder_is_refused_with_the_reason(folder: Path, name: str) -> None:
    spoil, says = SPOILT[name]
    spoil(folder)
    with pytest.raises(ModelLoadError, match=says):
        DiffusersEngine(WorkerSettings(model=str(folder), device="cpu"), "emoji-turbo").load()


def test_what_a_whole_folder_holds() -> None:
    found = checkpoint.read(MODEL)
    assert set(found.parameters) == {"unet", "vae", "text_encoder"}
    assert 9.5e6 < found.parameters["unet"] < 1e7
    assert found.weights_bytes(4) == 4 * sum(found.parameters.values())
    assert found.stored_bytes == pytest.approx(found.weights_bytes(2), rel=0.01)


def test_half_precision_files_are_taken_where_they_are(folder: Path) -> None:
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    assert checkpoint.read(folder).variant == "fp16"
    DiffusersEngine(WorkerSettings(model=str(folder), device="cpu"), "emoji-turbo").load()


def test_too_little_memory_is_told_before_the_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "free_bytes", lambda _: 30 << 20)
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(ModelLoadError, match=r"its weights take 41 MiB, .* and 30 MiB are free"):
        DiffusersEngine(WorkerSettings(model=str(MODEL), device="cpu"), "emoji-turbo").load()


def test_the_batch_is_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "free_bytes", lambda _: 54 << 20)
    engine = DiffusersEngine(WorkerSettings(model=str(MODEL), device="cpu", max_batch=64), "emoji-turbo")
    spec = engine.load()
    assert 2 <= spec.max_batch < 16
    assert engine._pipeline.vae.use_slicing


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("/none/there", "is no folder here"),
        ("none", "is no folder here, and no hub id"),
        ("darkroom-tests/none", "cannot be fetched"),
    ],
)
def test_a_model_that_is_nowhere(model: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(**_: object) -> str:
        raise OSError("We couldn't connect to the hub.\nmore")

    monkeypatch.setattr(DiffusionPipeline, "download", offline)
    with pytest.raises(ModelLoadError, match=says):
        DiffusersEngine(WorkerSettings(model=model, device="cpu"), "x").load()


def test_another_decoder(tmp_path: Path) -> None:
    settings = WorkerSettings(model=str(MODEL), device="cpu", vae=str(MODEL / "vae"))
    engine = DiffusersEngine(settings, "emoji-turbo")
    plain = DiffusersEngine(WorkerSettings(model=str(MODEL), device="cpu"), "emoji-turbo")
    assert engine.load().revision == f"{plain.load().revision}+{MODEL / 'vae'}", (
        "other pixels, another cache key"
    )
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    empty = settings.model_copy(update={"vae": str(tmp_path)})
    with pytest.raises(ModelLoadError, match=r"DARKROOM_VAE=.* cannot be loaded"):
        DiffusersEngine(empty, "emoji-turbo").load()


def test_int8_weights_that_spoil_the_pictures_are_refused(folder: Path) -> None:
    settings = WorkerSettings(model=str(folder), device="cpu", quantise="int8")
    assert DiffusersEngine(settings, "emoji-turbo").load().dtype == "float32-int8"
    with pytest.raises(ModelLoadError, match="below DARKROOM_QUALITY_FLOOR_DB=99"):
        DiffusersEngine(settings.model_copy(update={"quality_floor_db": 99.0}), "emoji-turbo").load()

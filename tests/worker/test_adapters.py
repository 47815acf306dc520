"""LoRA adapters in the real engine: files that diffusers has saved, against diffusers' own pipeline, alone and in mixed traffic."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file, save_file

from contracts.engine import Batch, BatchKey, ImageTask, Pixels, Progress
from contracts.models import ModelSpec
from contracts.settings import WorkerSettings
from worker.engine.adapters import _texts_adapt
from worker.engine.diffusers import DiffusersEngine
from worker.engine.errors import ModelLoadError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

MODEL = Path(__file__).parents[2] / "models" / "emoji-turbo"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
EQUAL_DB = 55.0
TASK = ImageTask("a red apple on a blue background", "", 7)
Pictures = list["np.ndarray[Any, np.dtype[np.float64]]"]


def make_lora(
    folder: Path, seed: int, *, unet: Sequence[str] = ATTENTION, text: bool = False, strength: float = 0.1
) -> Path:
    """An adapter of random weights for the embedded model, saved as diffusers saves one after training."""
    pipeline = DiffusionPipeline.from_pretrained(MODEL, dtype=torch.float32)
    torch.manual_seed(seed)
    parts: dict[str, Any] = {
        "unet": pipeline.unet,
        **({"text_encoder": pipeline.text_encoder} if text else {}),
    }
    layers = {}
    for name, model in parts.items():
        targets = list(unet) if name == "unet" else ["q_proj", "v_proj"]
        config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
        inject_adapter_in_model(config, model, adapter_name="default")
        with torch.no_grad():
            for each, value in model.named_parameters():
                if "lora_" in each:
                    value.normal_(std=strength)
        layers[name] = get_peft_model_state_dict(model)
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=layers["unet"],
        text_encoder_lora_layers=layers.get("text_encoder"),
        **_collate_lora_metadata(parts),
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`a` acts on attention, `b` on convolutions that the engine folds as well, `c` on texts too."""
    root = tmp_path_factory.mktemp("loras")
    make_lora(root / "a", 1, strength=0.3)
    make_lora(root / "b", 2, unet=["conv1", "upsamplers.0.conv", "to_q"], strength=0.05)
    make_lora(root / "c", 3, text=True)
    return root


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[DiffusersEngine, ModelSpec]:
    engine = DiffusersEngine(settings(",".join(f"{name}={folder / name}" for name in "abc")), "emoji-turbo")
    return engine, engine.load()


@pytest.fixture
def engine(loaded: tuple[DiffusersEngine, ModelSpec]) -> DiffusersEngine:
    return loaded[0]


def settings(loras: str = "", **more: Any) -> WorkerSettings:
    return WorkerSettings(model=str(MODEL), device="cpu", max_batch=4, loras=loras, **more)


def key(lora: str = "", scale: float = 1.0, *, guided: bool = False) -> BatchKey:
    return BatchKey("emoji-turbo", 64, 64, guided, lora, scale if lora else 0.0)


def draw(engine: DiffusersEngine, wanted: BatchKey, tasks: Sequence[ImageTask]) -> Pictures:
    ended: dict[int, Any] = {}
    joining = dict(enumerate(tasks))
    while open_ := [number for number in range(len(tasks)) if number not in ended]:
        answers = engine.advance(Batch(wanted, tuple(open_), joining))
        joining = {}
        ended.update((n, a) for n, a in zip(open_, answers, strict=True) if not isinstance(a, Progress))
    return [picture(ended[number]) for number in range(len(tasks))]


def picture(answer: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    assert isinstance(answer, Pixels)
    return np.frombuffer(answer.rgb, np.uint8).reshape(answer.height, answer.width, 3).astype(np.float64)


def psnr(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    return float(10 * np.log10(255**2 / max(((one - other) ** 2).mean(), 1e-9)))


@pytest.mark.parametrize(("name", "scale"), [("a", 1.0), ("a", 0.4), ("b", 1.0), ("c", 1.0), ("c", 1.5)])
def test_an_adapter_draws_what_the_pipeline_draws_with_it(
    engine: DiffusersEngine, folder: Path, name: str, scale: float
) -> None:
    plain = DiffusionPipeline.from_pretrained(MODEL, dtype=torch.float32)
    plain.set_progress_bar_config(disable=True)
    with _texts_adapt(plain):
        plain.load_lora_weights(str(folder / name), adapter_name="own")
    plain.set_adapters("own", scale)
    task = ImageTask(TASK.prompt, "red", 3, 3, 2.0)
    (image,) = plain(
        task.prompt,
        negative_prompt=task.negative_prompt,
        num_inference_steps=3,
        guidance_scale=2.0,
        generator=torch.Generator("cpu").manual_seed(3),
        output_type="np",
    ).images
    (mine,) = draw(engine, key(name, scale, guided=True), [task])
    (base,) = draw(engine, key(guided=True), [task])
    assert psnr(mine, np.asarray(image * 255, np.float64)) > EQUAL_DB
    assert psnr(mine, base) < 40


def test_none_and_a_scale_of_zero_are_the_model_itself(engine: DiffusersEngine) -> None:
    alone = DiffusersEngine(settings(), "emoji-turbo")
    alone.load()
    (bare,) = draw(alone, key(), [TASK])
    draw(engine, key("c"), [TASK])
    for wanted in (key(), key("a", 0.0), key("c", 0.0)):
        (mine,) = draw(engine, wanted, [TASK])
        assert psnr(mine, bare) > EQUAL_DB


def test_in_mixed_traffic_each_picture_is_what_it_is_alone(engine: DiffusersEngine) -> None:
    """Samples of four kinds in the making at one time, a batch of this kind and a batch of that."""
    order = random.Random(5)
    keys = [key(), key("a"), key("a", 0.5), key("c")]
    tasks = {
        number: (keys[number % 4], ImageTask(f"a {colour} rocket", "", number, 1 + number % 3))
        for number, colour in enumerate(["red", "green", "blue"] * 4)
    }
    alone = {number: draw(engine, wanted, [task])[0] for number, (wanted, task) in tasks.items()}
    ended: dict[int, Any] = {}
    begun: set[int] = set()
    switches = engine.adapters.switches
    while len(ended) < len(tasks):
        wanted = order.choice(keys)
        open_ = [n for n, (each, _) in tasks.items() if each == wanted and n not in ended]
        chosen = order.sample(open_, min(len(open_), order.randint(1, 3)))
        if not chosen:
            continue
        joining = {number: tasks[number][1] for number in chosen if number not in begun}
        begun.update(chosen)
        answers = engine.advance(Batch(wanted, tuple(chosen), joining))
        ended.update((n, a) for n, a in zip(chosen, answers, strict=True) if not isinstance(a, Progress))
    assert engine.adapters.switches - switches >= 4
    for number in tasks:
        assert psnr(picture(ended[number]), alone[number]) > EQUAL_DB


def test_batches_of_one_adapter_switch_once(engine: DiffusersEngine) -> None:
    draw(engine, key("a"), [TASK])
    before = engine.adapters.switches
    draw(engine, key("a"), [ImageTask("a tree", "", 1, 4)])
    assert engine.adapters.switches == before
    draw(engine, key(), [TASK])
    assert engine.adapters.switches == before + 1


def test_texts_are_encoded_anew_only_for_an_adapter_that_reads_them(engine: DiffusersEngine) -> None:
    text = ImageTask("a prompt of this test alone", "", 1)
    counts = []
    for wanted in (key(), key("a"), key("b"), key("c"), key("c", 0.5), key("c")):
        draw(engine, wanted, [text])
        counts.append(engine.prompts.encoded)
    assert [count - counts[0] for count in counts] == [0, 0, 0, 1, 2, 2]


def test_the_specification_names_each_adapter_by_its_contents(
    loaded: tuple[DiffusersEngine, ModelSpec], folder: Path
) -> None:
    spec = loaded[1]
    assert [each.name for each in spec.loras] == ["a", "b", "c"]
    assert len({each.revision for each in spec.loras}) == 3
    again = DiffusersEngine(settings(f"other={folder / 'a'}"), "emoji-turbo").load()
    assert again.loras[0].revision == spec.loras[0].revision
    assert again.revision == spec.revision


def test_an_adapter_that_is_not_loaded_fails_its_batch_and_no_other(engine: DiffusersEngine) -> None:
    with pytest.raises(ValueError, match="it has a, b, c"):
        engine.advance(Batch(key("absent"), (1,), {1: TASK}))
    (mine,) = draw(engine, key("a"), [TASK])
    assert mine.std() > 1


def damaged(folder: Path, tmp_path: Path, kind: str) -> str:
    """The setting that names an adapter with something wrong."""
    source = folder / "a" / "pytorch_lora_weights.safetensors"
    target = tmp_path / "broken.safetensors"
    tensors = load_file(source)
    match kind:
        case "cut":
            target.write_bytes(source.read_bytes()[:-100])
        case "garbage":
            target.write_bytes(b"\x80\x04no safetensors at all" * 10)
        case "pickle":
            torch.save(tensors, tmp_path / "pytorch_lora_weights.bin")
            return f"x={tmp_path / 'pytorch_lora_weights.bin'}"
        case "pickles":
            torch.save(tensors, tmp_path / "pytorch_lora_weights.bin")
            return f"x={tmp_path}"
        case "shape":
            save_file(
                {
                    name: torch.cat([each, each], -1 if "lora_A" in name else 0)
                    for name, each in tensors.items()
                },
                target,
            )
        case "stranger":
            save_file({name.replace("attn1", "attn9"): each for name, each in tensors.items()}, target)
        case "no_lora":
            save_file({"unet.conv_in.weight": torch.zeros(2, 2)}, target)
        case "nan":
            save_file({name: each * float("nan") for name, each in tensors.items()}, target)
        case "missing":
            return f"x={tmp_path / 'nowhere'}"
        case "two":
            for name in ("one", "two"):
                save_file(tensors, tmp_path / f"{name}.safetensors")
            return f"x={tmp_path}"
        case "unpinned":
            return "x=somebody/something"
    return f"x={target}"


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("cut", "cut short"),
        ("garbage", "no safetensors file"),
        ("pickle", "can run code"),
        ("pickles", "pickles are not loaded"),
        ("shape", "does not fit the model"),
        ("stranger", "does not fit the model"),
        ("no_lora", "does not fit the model"),
        ("nan", "makes no image"),
        ("missing", "no file or folder here"),
        ("two", "name the one"),
        ("unpinned", "needs a commit"),
    ],
)
def test_what_is_no_adapter_of_the_model_stops_the_worker(
    folder: Path, tmp_path: Path, kind: str, word: str
) -> None:
    with pytest.raises(ModelLoadError, match=word) as error:
        DiffusersEngine(settings(damaged(folder, tmp_path, kind)), "emoji-turbo").load()
    assert "x" in str(error.value) or "broken" in str(error.value)


@pytest.mark.parametrize("more", [{"compile": True}, {"quantise": "int8"}, {"graphs": "auto"}])
def test_adapters_do_not_go_with_layers_that_are_rebuilt(folder: Path, more: dict[str, Any]) -> None:
    with pytest.raises(ModelLoadError, match=f"DARKROOM_{next(iter(more)).upper()}"):
        DiffusersEngine(settings(f"a={folder / 'a'}", **more), "emoji-turbo").load()

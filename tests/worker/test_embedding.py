"""Embeddings against transformers' own processor and model: of CLIP and SigLIP, in the batch in which images are drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from benchmarks import make_clip
from benchmarks.engines import embedding as cost
from contracts.engine import Batch, BatchKey, ImageTask, Pixels, Progress
from contracts.settings import WorkerSettings
from tests.worker.drawing import APPLE, KEY, MODELS, draw
from worker.engine import clip_source, decode, embedding
from worker.engine.clip_source import Preprocessing
from worker.engine.device import Device
from worker.engine.diffusers import DiffusersEngine
from worker.engine.embedding import ClipEmbedder
from worker.engine.fake import FakeEngine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

EMOJI_CLIP = MODELS / "emoji-clip"
CPU = Device("cpu")
EQUAL = 0.9999
"""The cosine from which on two embeddings count as one."""
TASKS = [
    ImageTask(f"a {what} on a plain background", "", n) for n, what in enumerate(("cat", "rocket", "cherry"))
]


def vectors_of(data: list[bytes | None]) -> np.ndarray[Any, np.dtype[np.float64]]:
    assert None not in data
    return np.stack([np.frombuffer(row or b"", "<f2").astype(np.float64) for row in data])


def image_of(pixels: Pixels) -> Image.Image:
    return Image.frombytes("RGB", (pixels.width, pixels.height), pixels.rgb)


def theirs(folder: Path, images: list[Image.Image]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What the library makes of the images, nothing of ours."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    processor: Any = (CLIPImageProcessorPil if kind == "clip" else SiglipImageProcessorPil).from_pretrained(
        folder
    )
    model: Any = (CLIPModel if kind == "clip" else SiglipModel).from_pretrained(folder, dtype=torch.float32)
    inputs = processor(images=images, return_tensors="pt")
    with torch.inference_mode():
        found = model.get_image_features(**inputs).pooler_output
    vectors: np.ndarray[Any, np.dtype[np.float64]] = torch.nn.functional.normalize(found).double().numpy()
    return vectors


def ours(folder: Path, images: list[Image.Image]) -> np.ndarray[Any, np.dtype[np.float64]]:
    embedder = embedding.load(clip_source.read(str(folder)), CPU)
    levels = torch.stack([torch.from_numpy(np.array(each)).permute(2, 0, 1).float() for each in images])
    with torch.inference_mode():
        before = levels.clone()
        found = embedding.as_bytes(embedder.embed(levels))
    assert torch.equal(levels, before), "the levels become the image after this"
    return vectors_of(found)


def cosines(
    one: np.ndarray[Any, np.dtype[np.float64]], other: np.ndarray[Any, np.dtype[np.float64]]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of each pair. A vector of halves has length 1 to a thousandth."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    found: np.ndarray[Any, np.dtype[np.float64]] = (one * other).sum(1) / lengths
    return found


def scene(width: int, height: int, seed: int) -> Image.Image:
    """Shapes with hard edges and noise, of that size."""
    rng = np.random.default_rng(seed)
    data = np.zeros((height, width, 3), np.uint8) + rng.integers(0, 256, 3, np.uint8)
    for _ in range(12):
        x, y = rng.integers(0, width), rng.integers(0, height)
        data[y : y + rng.integers(4, height), x : x + rng.integers(4, width)] = rng.integers(0, 256, 3)
    noise = rng.normal(0, 8, data.shape)
    return Image.fromarray(np.clip(data + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """CLIP and SigLIP of the real preprocessing and a few layers."""
    vision = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    text = {**vision, "vocab_size": 100, "bos_token_id": 98, "eos_token_id": 99, "pad_token_id": 99}

    def made(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        torch.manual_seed(3)
        if kind == "clip":
            model: Any = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))
        else:
            model = SiglipModel(SiglipConfig(text_config=text, vision_config={**vision, "patch_size": 32}))
        model.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(make_clip.PREPROCESSING[kind]))
        return folder

    return made


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 160), (512, 512), (200, 333)])
def test_emoji_clip_embeds_as_its_library_does(size: tuple[int, int]) -> None:
    images = [scene(*size, seed) for seed in range(4)]
    mine, wanted = ours(EMOJI_CLIP, images), theirs(EMOJI_CLIP, images)
    assert np.linalg.norm(mine, axis=1) == pytest.approx(1, abs=2e-3)
    assert cosines(mine, wanted).min() > EQUAL
    off = mine @ wanted.T - np.eye(4)
    assert off.max() < EQUAL, "images that differ have vectors that differ"


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("size", [(224, 224), (512, 512), (768, 512), (512, 960), (64, 64)])
def test_every_way_to_prepare_an_image_is_the_library_s(
    small: Callable[[str], Path], kind: str, size: tuple[int, int]
) -> None:
    folder, images = small(kind), [scene(*size, seed) for seed in range(2)]
    source = clip_source.read(str(folder))
    levels = torch.stack([torch.from_numpy(np.array(each)).permute(2, 0, 1).float() for each in images])
    mine = source.preprocessing.apply(levels)
    processor: Any = (CLIPImageProcessorPil if kind == "clip" else SiglipImageProcessorPil).from_pretrained(
        folder
    )
    wanted = processor(images=images, return_tensors="pt")["pixel_values"]
    assert mine.shape == wanted.shape == (2, 3, 224, 224)
    off = (mine - wanted).abs() * 255 * float(processor.image_std[2])
    # In levels. Of a tall image, Pillow 13 resizes the columns first, and earlier ones the rows: rounding
    # differs. Enlarging, its integer weights differ by a little more.
    exact = size[1] <= size[0] and size[1] >= 224
    assert float(off.max()) < (1.1 if exact else 5.1)
    assert float(off.mean()) < (0.01 if exact else 0.3)
    assert cosines(ours(folder, images), theirs(folder, images)).min() > EQUAL


def test_the_engine_embeds_each_finished_image_as_it_is_served() -> None:
    settings = WorkerSettings(
        model=str(MODELS / "emoji-turbo"), clip="models/emoji-clip", device="cpu", max_batch=4
    )
    engine = DiffusersEngine(settings, "emoji-turbo")
    spec = engine.load()
    assert spec.clip == clip_source.read("models/emoji-clip").identity
    assert spec.clip.startswith("emoji-clip@")
    pictures = [each for each in draw(engine, KEY, TASKS) if isinstance(each, Pixels)]
    found = vectors_of([each.embedding for each in pictures])
    assert cosines(found, theirs(EMOJI_CLIP, [image_of(each) for each in pictures])).min() > EQUAL
    alone = draw(engine, KEY, TASKS[:1])[0]
    assert isinstance(alone, Pixels)
    assert cosines(vectors_of([alone.embedding]), found[:1]).min() > EQUAL


def test_previews_are_not_embedded_and_images_are_the_same_without() -> None:
    folder = str(MODELS / "emoji-base")
    task = ImageTask("a red apple", "", 3, num_inference_steps=4, previews=(2,))
    key = BatchKey("emoji-base", 64, 64, guided=False)
    made: dict[str, list[Any]] = {}
    for clip in ("", "models/emoji-clip"):
        engine = DiffusersEngine(
            WorkerSettings(model=folder, clip=clip, device="cpu", max_batch=2), "emoji-base"
        )
        assert bool(engine.load().clip) == bool(clip)
        answers = [engine.advance(Batch(key, (1,), {1: task} if step == 0 else {}))[0] for step in range(4)]
        made[clip] = answers
    plain, embedded = made.values()
    assert isinstance(embedded[1], Progress)
    assert embedded[1].preview is not None
    assert embedded[1].preview.pixels.embedding is None
    assert embedded[3].embedding is not None
    assert plain[3].embedding is None
    assert embedded[3].rgb == plain[3].rgb, "bit by bit"
    assert embedded[1].preview.pixels.rgb == plain[1].preview.pixels.rgb


def test_with_a_fixed_batch_image_and_embedding_are_the_same_in_any_company() -> None:
    def engine(clip: str) -> DiffusersEngine:
        settings = WorkerSettings(
            model=str(MODELS / "emoji-turbo"), clip=clip, device="cpu", max_batch=4, fixed_batch=2
        )
        made = DiffusersEngine(settings, "emoji-turbo")
        made.load()
        return made

    embedding_one, without = engine("models/emoji-clip"), engine("")
    together, alone = draw(embedding_one, KEY, TASKS), draw(embedding_one, KEY, TASKS[1:2])[0]
    plain = draw(without, KEY, TASKS)
    assert isinstance(alone, Pixels)
    assert together[1] == alone
    assert [each.rgb for each in together if isinstance(each, Pixels)] == [
        each.rgb for each in plain if isinstance(each, Pixels)
    ]


class Failing:
    identity = "failing@1"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def embed(self, levels: torch.Tensor) -> torch.Tensor:
        raise self.error


@pytest.mark.parametrize(
    "error", [ValueError("of the model"), torch.OutOfMemoryError("no room"), KeyError("x")]
)
def test_an_embedder_that_fails_costs_no_image(error: Exception) -> None:
    images = torch.rand(2, 3, 64, 64)
    finite = torch.tensor([True, True])
    plain = decode.to_pixels(images, [(), ()], finite=finite)
    made = decode.to_pixels(images, [(), ()], finite=finite, embedder=Failing(error), finished=2)
    assert made == plain


def test_an_image_that_is_none_spoils_no_embedding_of_others() -> None:
    embedder = embedding.load(clip_source.read("models/emoji-clip"), CPU)
    images = torch.rand(3, 3, 64, 64)
    images[1, 0, 0, 0] = float("nan")
    with torch.inference_mode():
        made = decode.to_pixels(
            images, [(), (), ()], finite=torch.ones(3, dtype=torch.bool), embedder=embedder, finished=2
        )
    assert isinstance(made[0], Pixels)
    assert made[0].embedding is not None
    assert not isinstance(made[1], Pixels)
    assert isinstance(made[2], Pixels)
    assert made[2].embedding is None, "a preview, or drawn for a test"


def test_vectors_of_no_length_are_none() -> None:
    rows = torch.tensor([[0.6, 0.8], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 0.0]]).half()
    first, *rest = embedding.as_bytes(rows)
    assert first == np.array([0.6, 0.8], "<f2").tobytes()
    assert rest == [None, None, None]


def test_the_fake_engine_embeds_by_a_hash_and_says_so() -> None:
    engine = FakeEngine(WorkerSettings(engine="fake", model="fake", clip="models/emoji-clip"), "fake")
    assert engine.load().clip == "hash@fake"
    key = BatchKey("fake", 64, 64, guided=False)
    (one,) = engine.advance(Batch(key, (1,), {1: APPLE}))
    (same,) = engine.advance(Batch(key, (2,), {2: APPLE}))
    (other,) = engine.advance(Batch(key, (3,), {3: ImageTask("x", "", 8)}))
    assert isinstance(one, Pixels)
    assert one == same
    assert isinstance(other, Pixels)
    vectors = vectors_of([one.embedding, other.embedding])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=2e-3)
    assert abs(float(vectors[0] @ vectors[1])) < 0.6
    plain = FakeEngine(WorkerSettings(engine="fake", model="fake"), "fake")
    assert plain.load().clip == ""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_real_layout_loads_and_embeds_within_the_plan(tmp_path: Path, kind: str) -> None:
    """OpenAI's ViT-B/32 and Google's SigLIP base by their sizes. Only the vision part is in memory, and a pass of four images
    of 512 pixels takes no more than was planned."""
    source = clip_source.read(str(make_clip.make(tmp_path, kind)))
    weights, per_image = source.memory(512)
    assert weights == make_clip.VISION_PARAMETERS[kind] * 4
    embedder = embedding.load(source, CPU)
    network = embedder._network.args[0]  # type: ignore[union-attr]
    loaded = sum(each.numel() * each.element_size() for each in network.parameters())
    assert loaded == weights
    levels = torch.rand(4, 3, 512, 512) * 255
    with torch.inference_mode():
        measured = cost.peak_bytes(lambda: embedder.embed(torch.full((4, 3, 512, 512), 99.0)))
        (first, *_) = found = embedding.as_bytes(embedder.embed(levels))
    assert len(first or b"") == make_clip.DIMENSIONS[kind] * 2
    assert None not in found
    assert measured <= 4 * per_image * 1.05, "what the real pass holds at one time"
    assert measured >= 4 * per_image * 0.4, "and the plan is no guess"


def test_the_plan_of_a_worker_counts_its_clip() -> None:
    def plan(clip: str) -> Any:
        engine = DiffusersEngine(
            WorkerSettings(model=str(MODELS / "emoji-turbo"), clip=clip, device="cpu"), "m"
        )
        engine.load()
        return engine.plan

    plain, counted = plan(""), plan("models/emoji-clip")
    weights, per_image = clip_source.read("models/emoji-clip").memory(64)
    assert counted.weights_bytes - plain.weights_bytes == weights
    assert (plain.embed_bytes, counted.embed_bytes) == (0, per_image)
    assert per_image > 0


def test_an_image_that_is_smaller_than_its_crop_is_refused() -> None:
    plain = Preprocessing(None, (32, 32), "bicubic", 1.0, (0.0,), (1.0,))
    assert plain.apply(torch.zeros(1, 3, 40, 33)).shape == (1, 3, 32, 32)
    with pytest.raises(ValueError, match="smaller than its crop"):
        plain.apply(torch.zeros(1, 3, 31, 64))


def test_float32_moves_fewer_neighbours_than_bfloat16() -> None:
    """Why the arithmetic is in float32: docs/engine.md has the figures of `benchmarks/engines/embedding.py`."""
    embedder = embedding.load(clip_source.read("models/emoji-clip"), CPU)
    assert isinstance(embedder, ClipEmbedder)
    network = embedder._network.args[0]  # type: ignore[union-attr]
    images = [scene(64, 64, seed) for seed in range(300)]
    levels = torch.stack([torch.from_numpy(np.array(each)).permute(2, 0, 1).float() for each in images])
    pixels = clip_source.read("models/emoji-clip").preprocessing.apply(levels)
    moved = cost.neighbours_moved(network, pixels, [torch.bfloat16])
    assert moved["stored"] < 0.02
    assert moved["bfloat16"] > 2 * moved["stored"]


@pytest.mark.timeout(120)
def test_an_embedding_is_a_small_part_of_an_image(tmp_path: Path) -> None:
    figures = cost.share(tmp_path, timed=False)
    assert figures["embed_gflop"] == pytest.approx(8.7, rel=0.1)
    assert figures["embed_flop_over_draw"] < 0.005

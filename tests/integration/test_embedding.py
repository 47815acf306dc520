"""A platform with a CLIP: what it draws is in the store with the vector of the file that it serves."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from cli.services.redis import RedisServer
from contracts.model_source import digest
from contracts.pictures import PictureRecord
from contracts.settings import BackendSettings
from store.stores import open_stores
from tests.integration.conftest import Stack
from tests.stores import empty

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

EMOJI_CLIP = Path(__file__).parents[2] / "models" / "emoji-clip"
PROMPTS = [
    "a red apple on a blue background",
    "a rocket on a green background",
    "a snowman on a pink background",
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Stack]:
    empty(redis_server)
    folder = tmp_path_factory.mktemp("embedding")
    with Stack.open({"DARKROOM_CLIP": "models/emoji-clip"}, folder, redis_server, broker=False) as running:
        yield running


def records_of(stack: Stack) -> list[PictureRecord]:
    """What the index is owed, as an indexer reads it."""

    async def read() -> list[PictureRecord]:
        settings = BackendSettings(
            redis_url=stack.environ["DARKROOM_REDIS_URL"], blob_dir=Path(stack.environ["DARKROOM_BLOB_DIR"])
        )
        stores = open_stores(settings)
        try:
            taken = [
                job_id
                for shard in stores.pictures.shards
                for job_id in await stores.pictures.take(shard, 100, 0.1)
            ]
            return list(await stores.pictures.read(taken))
        finally:
            await stores.close()

    return asyncio.run(read())


def embedded(images: list[Image.Image]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The library's own vectors of files."""
    processor = CLIPImageProcessorPil.from_pretrained(EMOJI_CLIP)
    model: Any = CLIPModel.from_pretrained(EMOJI_CLIP, dtype=torch.float32)
    with torch.inference_mode():
        features = model.get_image_features(**processor(images=images, return_tensors="pt")).pooler_output
    vectors: np.ndarray[Any, np.dtype[np.float64]] = torch.nn.functional.normalize(features).double().numpy()
    return vectors


def test_what_is_drawn_is_recorded_with_the_vector_of_its_file(stack: Stack) -> None:
    jobs = [
        stack.ended(stack.submit(prompt=prompt, seed=seed, num_images=2))
        for seed, prompt in enumerate(PROMPTS)
    ]
    hit = stack.submit(prompt=PROMPTS[0], seed=0, num_images=2)
    assert hit["cache"] == "hit"
    found = {record.name: record for record in records_of(stack)}
    assert {record.job_id for record in found.values()} == {job["id"] for job in jobs}, "not the hit"
    models = {record.embedding.model for record in found.values() if record.embedding is not None}
    assert models == {f"emoji-clip@{digest(EMOJI_CLIP)}"}
    served = [image for job in jobs for image in job["images"]]
    assert len(served) == len(found) == 6
    files, vectors = [], []
    for image in served:
        record = found[image["url"].rpartition("/")[2]]
        assert (record.seed, record.width, record.height) == (image["seed"], image["width"], image["height"])
        files.append(Image.open(io.BytesIO(stack.http.get(image["url"]).content)).convert("RGB"))
        assert record.embedding is not None
        vectors.append(np.frombuffer(record.embedding.raw(), "<f2").astype(np.float64))
    found_vectors = np.stack(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (found_vectors * embedded(files)).sum(1).min() > 0.9999

"""An engine without a model, for timing and fault tests only.

It draws coloured noise from the seed, and fails on request. With `DARKROOM_CLIP` it embeds an image by
its hash. Words in a prompt control it:

- `slow=0.5` makes every pass take that many seconds; `cost=20+5` takes 20 ms, and 5 ms for each image;
- `fault:raise` raises; `fault:sticky` raises and loses the device; `fault:nan` has no valid output;
- `fault:oom>=4` does not fit in batches of four or more;
- `fault:crash` ends the process; `fault:hang` never returns.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from dataclasses import replace
from typing import Final

import numpy as np

from contracts.engine import Advanced, BatchKey, ImageFault, ImageTask, Pass, Pixels, Preview, Progress
from contracts.failures import InvalidOutput, OutOfMemory
from contracts.models import ModelSpec
from contracts.settings import WorkerSettings

MAX_PROMPT_TOKENS: Final = 77
CLIP: Final = "hash@fake"
"""The model of its embeddings, whatever `DARKROOM_CLIP` names: a hash, which says nothing of likeness."""
DIMENSIONS: Final = 64
HANG_S: Final = 3600.0

_SLOW = re.compile(r"\bslow=(\d+(?:\.\d+)?)")
_COST = re.compile(r"\bcost=(\d+(?:\.\d+)?)\+(\d+(?:\.\d+)?)")
_OOM = re.compile(r"\bfault:oom>=(\d+)")


class FakeEngine:
    """The `ImageEngine` of timing and fault tests."""

    def __init__(self, settings: WorkerSettings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._samples: dict[int, tuple[ImageTask, int]] = {}
        self._lost = False

    def load(self) -> ModelSpec:
        """Return the specification at once: there is nothing to load."""
        return ModelSpec(
            name=self._name,
            revision=self._settings.model_revision or "fake",
            dtype="float32",
            default_width=64,
            default_height=64,
            size_multiple=8,
            min_size=8,
            max_size=1024,
            max_pixels=1024 * 1024,
            default_steps=1,
            max_steps=self._settings.max_num_inference_steps or 50,
            default_guidance_scale=0.0,
            max_guidance_scale=20.0,
            max_prompt_tokens=MAX_PROMPT_TOKENS,
            max_batch=self._settings.max_batch,
            init_images=True,
            sampler="Noise",
            description="Noise instead of pictures: for timing and fault tests only.",
            clip=CLIP if self._settings.clip else "",
        )

    def advance(self, batch: Pass) -> list[Advanced]:
        """Run one pass, with the faults that its prompts ask for; see `ImageEngine.advance`.

        Raises `OutOfMemory`, `ValueError` or `RuntimeError` on request.
        """
        for sample in batch.leaving:
            self._samples.pop(sample, None)
        for sample, task in batch.joining.items():
            self._samples[sample] = (task, 0)
        active = [(sample, *self._samples.pop(sample)) for sample in batch.samples]
        self._apply_faults([task.prompt for _, task, _ in active])
        advanced: list[Advanced] = []
        for sample, task, taken in active:
            if taken + 1 < task.steps:
                self._samples[sample] = (task, taken + 1)
                advanced.append(Progress(taken + 1, task.steps, _preview(batch.key, task, taken + 1)))
            else:
                advanced.append(self._draw(batch.key, task))
        return advanced

    def peak_memory_bytes(self) -> int | None:
        """Return None: there is no device memory."""
        return None

    def free_memory(self) -> None:
        """Raise `RuntimeError` if `fault:sticky` has lost the device."""
        if self._lost:
            raise RuntimeError("the device is lost")

    def _apply_faults(self, prompts: list[str]) -> None:
        costs = [(float(match[1]), float(match[2])) for p in prompts if (match := _COST.search(p))]
        slow = [float(match[1]) for p in prompts if (match := _SLOW.search(p))]
        fixed_ms = max((fixed for fixed, _ in costs), default=0.0)
        time.sleep(max(slow, default=0.0) + (fixed_ms + sum(image_ms for _, image_ms in costs)) / 1000)
        for prompt in prompts:
            if "fault:crash" in prompt:
                os._exit(86)
            if "fault:hang" in prompt:
                time.sleep(HANG_S)
            if "fault:sticky" in prompt:
                self._lost = True
            if self._lost:
                raise RuntimeError("the device is lost")
            if "fault:raise" in prompt:
                raise ValueError("the prompt asked for it")
            if (match := _OOM.search(prompt)) and len(prompts) >= int(match[1]):
                raise OutOfMemory(f"{len(prompts)} images do not fit")

    def _draw(self, key: BatchKey, task: ImageTask) -> Pixels | ImageFault:
        if "fault:nan" in task.prompt:
            return ImageFault(InvalidOutput.code, "The picture holds values that are no numbers.")
        if self._settings.fake_log is not None:
            with self._settings.fake_log.open("a") as log:
                log.write(f"{task.seed}\n")
        noise = _noise(key, task.seed)
        return replace(noise, embedding=hashed(noise.rgb)) if self._settings.clip else noise


def hashed(rgb: bytes) -> bytes:
    """Return the embedding of an image: a vector that its hash seeds, `DIMENSIONS` float16 numbers."""
    seed = int.from_bytes(hashlib.sha256(rgb).digest()[:8])
    vector = np.random.default_rng(seed).standard_normal(DIMENSIONS)
    return (vector / np.linalg.norm(vector)).astype("<f2").tobytes()


def _preview(key: BatchKey, task: ImageTask, step: int) -> Preview | None:
    """A preview is noise of another seed. None if no preview is due after `step`."""
    if step not in task.previews:
        return None
    return Preview(task.previews.index(step), _noise(key, task.seed + (step << 53)))


def _noise(key: BatchKey, seed: int) -> Pixels:
    noise = np.random.default_rng(seed).integers(0, 256, (key.height, key.width, 3), np.uint8)
    return Pixels(key.width, key.height, noise.tobytes())

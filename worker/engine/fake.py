"""A stand-in without a model, for timing and fault tests only: coloured noise from the seed, and faults on request.

Words in a prompt steer it: `slow=0.5` takes that many seconds, `fault:raise` raises, `fault:nan` has no valid output,
`fault:oom>=4` does not fit in batches of four or more, `fault:crash` ends the process, `fault:hang` never returns.
"""

from __future__ import annotations

import os
import re
import time
from typing import Final

import numpy as np

from contracts.engine import BatchKey, ImageFault, ImageTask, Pixels
from contracts.errors import InvalidOutput, OutOfMemory
from contracts.models import ModelSpec
from contracts.settings import WorkerSettings

MAX_PROMPT_TOKENS: Final = 77
HANG_S: Final = 3600.0

_SLOW = re.compile(r"\bslow=(\d+(?:\.\d+)?)")
_OOM = re.compile(r"\bfault:oom>=(\d+)")


class FakeEngine:
    """The `ImageEngine` of timing and fault tests."""

    def __init__(self, settings: WorkerSettings, name: str) -> None:
        self._settings = settings
        self._name = name

    def load(self) -> ModelSpec:
        return ModelSpec(
            name=self._name,
            revision="fake",
            dtype="float32",
            default_width=64,
            default_height=64,
            size_multiple=8,
            min_size=8,
            max_size=1024,
            max_pixels=1024 * 1024,
            default_steps=1,
            max_steps=50,
            default_guidance_scale=0.0,
            max_guidance_scale=20.0,
            max_prompt_tokens=MAX_PROMPT_TOKENS,
            max_batch=self._settings.max_batch,
            description="Noise instead of pictures: for timing and fault tests only.",
        )

    def generate(self, key: BatchKey, tasks: list[ImageTask]) -> list[Pixels | ImageFault]:
        prompts = [task.prompt for task in tasks]
        time.sleep(max((float(found[1]) for p in prompts if (found := _SLOW.search(p))), default=0.0))
        for prompt in prompts:
            if "fault:crash" in prompt:
                os._exit(86)
            if "fault:hang" in prompt:
                time.sleep(HANG_S)
            if "fault:raise" in prompt:
                raise ValueError("the prompt asked for it")
            if (found := _OOM.search(prompt)) and len(tasks) >= int(found[1]):
                raise OutOfMemory(f"{len(tasks)} images do not fit")
        return [self._paint(key, task) for task in tasks]

    def _paint(self, key: BatchKey, task: ImageTask) -> Pixels | ImageFault:
        if "fault:nan" in task.prompt:
            return ImageFault(InvalidOutput.code, "The picture holds values that are no numbers.")
        noise = np.random.default_rng(task.seed).integers(0, 256, (key.height, key.width, 3), np.uint8)
        return Pixels(key.width, key.height, noise.tobytes())

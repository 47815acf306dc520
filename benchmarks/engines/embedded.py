"""What each of the engine's options costs and gives with the embedded model."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.engines.bare import KEY
from benchmarks.engines.calls import (
    BATCH,
    draw,
    opened,
    plain,
    plain_pipeline,
    ratios,
    seconds,
    tasks,
    timed_ratios,
)
from benchmarks.report import ROOT
from contracts.engine import ImageTask
from contracts.settings import WorkerSettings
from worker.engine import quality, quantised_layers
from worker.engine.quality import psnr_db

MODELS = ROOT / "models"


class Embedded:
    """Figures of the embedded model."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._settings = WorkerSettings(model=str(MODELS / "emoji-turbo"), device="cpu")
        begun = time.perf_counter()
        self._engine = opened(self._settings, "emoji-turbo")
        self._load_s = time.perf_counter() - begun

    def measure(self) -> dict[str, list[float]]:
        engine, rounds = self._engine, self._rounds
        samples = {"load_s": [self._load_s]}
        with plain(MODELS / "emoji-turbo") as pipeline:
            for size, name in ((BATCH, "engine_over_pipeline"), (1, "engine_over_pipeline_alone")):
                samples[name] = timed_ratios(
                    lambda size=size: pipeline(KEY, tasks(size)),  # type: ignore[misc]
                    lambda size=size: seconds(lambda: draw(engine, KEY, tasks(size))),  # type: ignore[misc]
                    rounds,
                )
        samples["control_ratio"] = ratios(
            lambda: draw(engine, KEY, tasks()), lambda: draw(engine, KEY, tasks()), rounds
        )
        known = tasks()
        samples["known_prompts_factor"] = ratios(
            lambda: draw(engine, KEY, tasks()), lambda: draw(engine, KEY, known), rounds
        )
        return samples | self._text() | self._options()

    def _text(self) -> dict[str, list[float]]:
        """Eight prompts, eight seeds each: how many of the 64 went through the text encoder."""
        prompts, before = self._engine.prompts, (self._engine.prompts.encoded, self._engine.prompts.skipped)
        wanted = tasks()
        for seed in range(8):
            draw(self._engine, KEY, [ImageTask(task.prompt, "", seed) for task in wanted])
        return {
            "text_encoded": [prompts.encoded - before[0]],
            "text_skipped": [prompts.skipped - before[1]],
        }

    def _options(self) -> dict[str, list[float]]:
        """Each against the engine as it is by default: above 1 it is faster. And what pictures it makes."""
        samples: dict[str, list[float]] = {}
        wanted = tasks()
        own, clip = draw(self._engine, KEY, wanted), quality.Clip(str(MODELS / "emoji-clip"))
        options: dict[str, dict[str, Any]] = {
            "bf16": {"precision": "bfloat16"},
            "int8": {"quantise": "int8"},
            "int8_dynamic": {"quantise": "int8-dynamic"},
            "math": {"attention": "math"},
        }
        for name, changes in options.items():
            engine = opened(self._settings.model_copy(update=changes), "emoji-turbo")
            samples[f"{name}_factor"] = ratios(
                lambda: draw(self._engine, KEY, tasks()),
                lambda engine=engine: draw(engine, KEY, tasks()),  # type: ignore[misc]
                max(3, self._rounds // 3),
            )
            if name != "math":
                drawn = draw(engine, KEY, wanted)
                samples[f"{name}_psnr_db"] = [psnr_db(a, b) for a, b in zip(own, drawn, strict=True)]
                samples[f"{name}_clip_similarity"] = clip.similarity(own, drawn)
            if name == "int8":
                whole = plain_pipeline(MODELS / "emoji-turbo").unet
                sizes = [quantised_layers.size_bytes(each) for each in (whole, engine.pipeline.unet)]
                samples["int8_shrink"] = [sizes[0] / sizes[1]]
        return samples

    def compiled(self) -> dict[str, list[float]]:
        """The compiler's minutes and what they buy."""
        begun = time.perf_counter()
        engine = opened(self._settings.model_copy(update={"compile": True}), "emoji-turbo")
        took = time.perf_counter() - begun
        factor = ratios(
            lambda: draw(self._engine, KEY, tasks()), lambda: draw(engine, KEY, tasks()), self._rounds
        )
        return {"compile_factor": factor, "compile_load_s": [took]}

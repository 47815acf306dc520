"""What `benchmarks.search` measures: what vectors find, and what running platforms do."""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.arms import gallery as galleries
from benchmarks.arms import retrieval
from benchmarks.arms.gallery import Embedders, Gallery
from benchmarks.arms.search_figures import (
    TEN,
    names_of,
    precision_10,
    quantiles,
    rates_of,
    synonyms_of,
    texts_of,
    times_of,
)
from benchmarks.arms.searching import deployed, draw_rates, found_after, fused, request_times, wait_for_search
from benchmarks.lib.platform import served
from cli.services.rabbitmq import RabbitServer

PARTS: Final = ("found", "ranked", "asked", "drawn")


def parts(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := set(chosen) - set(PARTS):
        raise argparse.ArgumentTypeError(f"there is no part {', '.join(sorted(unknown))}")
    return chosen


def earlier(path: Path | None, chosen: Sequence[str]) -> dict[str, Any]:
    """The report at `path`, if some parts alone are `chosen`: the others stay as they are in it."""
    if path is None or not path.exists() or set(chosen) == set(PARTS):
        return {"config": {}, "figures": {}, "samples": {}}
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def found(gallery: Gallery, clip: Embedders, vectors: Any, altered: int) -> dict[str, float]:
    """What vectors alone find."""
    plain = vectors.astype(np.float32)
    figures = {}
    for name, queries in (("concept", names_of(gallery.emoji)), ("synonym", synonyms_of(gallery.emoji))):
        asked = clip.texts([text for text, _ in queries]).astype(np.float32)
        rows = retrieval.nearest(asked, plain, TEN)
        figures[f"{name}_p10"] = precision_10(rows, gallery.judged, queries)
    rows = np.sort(np.random.default_rng(13).permutation(len(plain))[:altered])
    for name, way in retrieval.WAYS.items():
        copies = clip.images([way(gallery.pictures[row]) for row in rows]).astype(np.float32)
        first = retrieval.nearest(copies, plain, 1)[:, 0]
        right = retrieval.finds_itself(first, rows, gallery.pictures)
        figures["self_recall_1" if name == "all" else f"self_recall_1_{name}"] = float(right.mean())
    return figures


def on_platforms(
    parts: Sequence[str], gallery: Gallery, clip: Embedders, vectors: Any, sizes: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, Any]]:
    """The figures of running platforms, and their samples."""
    figures: dict[str, float] = {}
    samples: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="search-") as name, ExitStack() as stack:
        folder = Path(name)
        index = f"embedded:{folder / 'index'}"
        names = asyncio.run(galleries.fill(gallery, vectors, clip.name, index, folder / "blobs"))
        rabbit = stack.enter_context(served(RabbitServer(folder / "rabbitmq")))
        own = {
            "DARKROOM_CLIP": clip.setting,
            "DARKROOM_SEARCH_INDEX": index,
            "DARKROOM_BLOB_DIR": str(folder / "blobs"),
        }
        running = {"with": stack.enter_context(deployed(folder, "with", rabbit, own))}
        wait_for_search(running["with"])
        if "asked" in parts:
            times, cpu_ms = request_times(running["with"], texts_of(gallery.emoji, int(sizes["texts"])))
            samples |= times
            figures |= {**times_of(times), "search_cpu_ms": cpu_ms}
            figures["concept_p10_fused"] = fused(running["with"], gallery, names)
            samples["found_after_s"] = found_after(running["with"], gallery.emoji, int(sizes["found_after"]))
            figures |= {f"found_after_{key}_s": v for key, v in quantiles(samples["found_after_s"]).items()}
        if "drawn" in parts:
            running["without"] = stack.enter_context(deployed(folder, "without", rabbit, {}))
            rates = draw_rates(running, int(sizes["rounds"]), sizes["seconds"])
            figures |= rates_of(rates)
            samples |= rates
    return figures, samples

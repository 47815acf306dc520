"""Search: what it finds, how fast, and what it costs the drawing.

    python -m benchmarks.search --json out.json --html out.html
    python -m benchmarks.search --clip FOLDER --parts found       # what another CLIP finds; no platform is started

The gallery holds 60 pictures of each of 330 things, drawn by `emoji-turbo`; half name a style, all name a colour. An
independent judge (`benchmarks/fidelity.py`), which knows neither prompts nor CLIP, says what each picture shows. They are embedded as a
worker embeds them, and texts as the search process does.

`concept_p10` is the share of right pictures among the ten nearest to "a X", over all X. `synonym_p10` asks by other words for X,
which are in no prompt. Both rank by vectors alone. `concept_p10_fused` are the ten that GET /v1/search answers, from vectors and prompts.
`self_recall_1` looks for a picture by a copy that was cropped by a tenth, halved and encoded as JPEG 50 (`_jpeg`, `_half`, `_crop`: one of
these alone). The first hit is to be the picture, or one at 30 dB or more to it.

`search_p50_ms` and `search_p99_ms` are GET /v1/search on a running platform with the gallery in its index, one at a time on a kept-open
connection. No text was asked before, so each is embedded. `search_known_*` are the same texts again. Every second request belongs
to the other of two equal arms (A/A): `search_control_p50`, `search_control_p99`. `search_cpu_ms` is what the API and the search process
compute for a request, by their clocks: other load on the machine lengthens a request, and hardly changes this.

`found_after_p99_s` counts from a job's `finished_at` until GET /v1/search answers its picture, at a platform that is otherwise idle.

`draw_over_without` is the images per second of a worker that embeds, with the search process beside it, over those of one without
a CLIP. Both platforms are saturated in turns, the first one twice a round (A/A). The engines have one core, and all else the others.

A run of some `--parts` keeps what an earlier report at `--json` says of the others.

`rerank` is not measured: there is no re-ranking.
"""

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
import torch

from benchmarks import report
from benchmarks.arguments import count
from benchmarks.arms import gallery as galleries
from benchmarks.arms import retrieval
from benchmarks.arms.gallery import Embedders, Gallery
from benchmarks.arms.search_figures import (
    ARMS,
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
from cli.services.rabbitmq import RabbitServer

EACH: Final = 60
ALTERED: Final = 2_000
TEXTS: Final = 1_000
PARTS: Final = ("found", "asked", "drawn")


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
    args: argparse.Namespace, gallery: Gallery, clip: Embedders, vectors: Any, sizes: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, Any]]:
    """The figures of running platforms, and their samples."""
    figures: dict[str, float] = {}
    samples: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="search-") as name, ExitStack() as stack:
        folder = Path(name)
        index = f"embedded:{folder / 'index'}"
        names = asyncio.run(galleries.fill(gallery, vectors, clip.name, index, folder / "blobs"))
        rabbit = RabbitServer(folder / "rabbitmq")
        rabbit.start()
        stack.callback(rabbit.stop)
        own = {
            "DARKROOM_CLIP": str(args.clip),
            "DARKROOM_SEARCH_INDEX": index,
            "DARKROOM_BLOB_DIR": str(folder / "blobs"),
        }
        running = {"with": stack.enter_context(deployed(folder, "with", rabbit.url, own))}
        wait_for_search(running["with"])
        if "asked" in args.parts:
            times, cpu_ms = request_times(running["with"], texts_of(gallery.emoji, int(sizes["texts"])))
            samples |= times
            figures |= {**times_of(times), "search_cpu_ms": cpu_ms}
            figures["concept_p10_fused"] = fused(running["with"], gallery, names)
            samples["found_after_s"] = found_after(running["with"], gallery.emoji, int(sizes["found_after"]))
            figures |= {f"found_after_{key}_s": v for key, v in quantiles(samples["found_after_s"]).items()}
        if "drawn" in args.parts:
            running["without"] = stack.enter_context(deployed(folder, "without", rabbit.url, {}))
            rates = draw_rates(running, int(sizes["rounds"]), sizes["seconds"])
            figures |= rates_of(rates)
            samples |= rates
    return figures, samples


def plot_of(figures: Mapping[str, float], samples: Mapping[str, Sequence[float]]) -> Any:
    """Left: what is found. Middle: times of requests, as cumulative shares. Right: images per second, one point a round."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, (shares, times, rates) = pyplot.subplots(1, 3, figsize=(15, 4))
    right = {key: value for key, value in figures.items() if "_p10" in key or "_recall_" in key}
    shares.barh(list(right), list(right.values()))
    shares.set(xlim=(0, 1), xlabel="share of hits that are right")
    shares.invert_yaxis()
    for name, label in (("fresh", "a new text"), ("again", "a known text")):
        ordered = np.sort(samples.get(name, []))
        times.plot(ordered, np.linspace(0, 1, len(ordered)), label=label)
    times.set(xlabel="milliseconds of GET /v1/search", ylabel="share of requests", xscale="log")
    times.legend()
    times.grid(alpha=0.3)
    for place, arm in enumerate(ARMS):
        rates.plot([place] * len(samples.get(arm, [])), samples.get(arm, []), "o", alpha=0.6)
    rates.set(xticks=range(len(ARMS)), ylabel="images per second", ylim=(0, None))
    rates.set_xticklabels(["with search", "the same again", "without"])
    rates.grid(alpha=0.3, axis="y")
    figure.tight_layout()
    return figure


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


def main() -> None:
    parser = report.parser(__doc__)
    models = report.ROOT / "models"
    parser.add_argument("--clip", type=Path, default=models / "emoji-clip", help="the folder of a CLIP")
    parser.add_argument(
        "--parts", type=parts, default=list(PARTS), help=f"of {', '.join(PARTS)}; by default all"
    )
    parser.add_argument("--each", type=count, help="pictures of each thing")
    parser.add_argument("--models", type=Path, default=models)
    parser.add_argument(
        "--cache", type=Path, default=report.ROOT / ".cache" / "emoji", help="where drawn pictures stay"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {
        "each": EACH,
        "altered": ALTERED,
        "texts": TEXTS,
        "found_after": 200,
        "rounds": 6,
        "seconds": 12.0,
    }
    if args.quick:
        sizes = {"each": 1, "altered": 100, "texts": 100, "found_after": 20, "rounds": 1, "seconds": 4.0}
    sizes["each"] = args.each or sizes["each"]
    gallery = galleries.opened(args.models, args.cache, int(sizes["each"]))
    clip = Embedders(str(args.clip))
    vectors = clip.images(gallery.pictures)
    figures = found(gallery, clip, vectors, int(sizes["altered"])) if "found" in args.parts else {}
    samples: dict[str, Any] = {}
    if set(args.parts) & {"asked", "drawn"}:
        more, samples = on_platforms(args, gallery, clip, vectors, sizes)
        figures |= more
    before = earlier(args.json, args.parts)
    now = {part: {"pictures": len(gallery.pictures), "clip": clip.name, **sizes} for part in args.parts}
    config = {key: value for key, value in before["config"].items() if key in PARTS} | now
    rounded = {name: [round(value, 4) for value in values] for name, values in samples.items()}
    figures, samples = before["figures"] | figures, before["samples"] | rounded
    report.publish(
        args, "search", {**config, "rerank": "not measured"}, figures, samples, plot_of(figures, samples)
    )


if __name__ == "__main__":
    main()

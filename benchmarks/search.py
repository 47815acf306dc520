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

`rerank_ndcg` is the nDCG@10 of hits that a second model has ranked again, over that of the same hits in the index's order
(`benchmarks/arms/reranking.py`). The index is filled by an earlier `emoji-clip` of this repository's history, and `--clip` ranks again.
A hit is right if the judge saw the thing. `clicks_ndcg` is the same for hits that were moved by simulated clicks. Both are means over
queries by name and by other words, words and vectors fused. `ndcg_name_*` and `ndcg_synonym_*` are their parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks import report
from benchmarks.arguments import count
from benchmarks.arms import gallery as galleries
from benchmarks.arms import reranking
from benchmarks.arms.gallery import Embedders
from benchmarks.arms.search_figures import ARMS
from benchmarks.arms.search_measures import PARTS, earlier, found, on_platforms, parts
from benchmarks.lib import natives

__all__ = ["natives"]

FULL: Final = {"each": 60, "altered": 2_000, "texts": 1_000, "found_after": 200, "rounds": 6, "seconds": 12.0}
QUICK: Final = {"each": 1, "altered": 100, "texts": 100, "found_after": 20, "rounds": 1, "seconds": 4.0}


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
    sizes = QUICK if args.quick else FULL
    sizes = {**sizes, "each": args.each or sizes["each"]}
    gallery = galleries.opened(args.models, args.cache, int(sizes["each"]))
    clip = Embedders(str(args.clip))
    vectors = clip.images(gallery.pictures)
    figures = found(gallery, clip, vectors, int(sizes["altered"])) if "found" in args.parts else {}
    if "ranked" in args.parts:
        figures |= reranking.gains(gallery, str(args.clip))
    samples: dict[str, Any] = {}
    if set(args.parts) & {"asked", "drawn"}:
        more, samples = on_platforms(args.parts, gallery, clip, vectors, sizes)
        figures |= more
    before = earlier(args.json, args.parts)
    now = {part: {"pictures": len(gallery.pictures), "clip": clip.name, **sizes} for part in args.parts}
    config = {key: value for key, value in before["config"].items() if key in PARTS} | now
    rounded = {name: [round(value, 4) for value in values] for name, values in samples.items()}
    figures, samples = before["figures"] | figures, before["samples"] | rounded
    report.publish(args, "search", config, figures, samples, plot_of(figures, samples))


if __name__ == "__main__":
    main()

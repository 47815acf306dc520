"""Moderation of prompts: what words and meaning find, what they refuse by mistake, and what they cost.

    python -m benchmarks.moderation_prompts --json out.json --html out.html

`words_caught` is the share of disguised banned words that the list finds: every entry of our list in ten kinds of disguise, put
into sentences. `words_false` is the share of 1,000 harmless prompts that it finds: English words that hold a banned word or are one
letter off, harmless words in the same ten disguises, and phrases of the exceptions. `words_us` is the CPU time of a prompt.

`meaning_recall` is the share of prompts that describe a weapon and name no banned word, and that the head finds at `--threshold`;
`meaning_false` that of harmless ones, among them descriptions in like words. Neither descriptions nor templates are in the prompts that
the head was trained on. The threshold is that of its training at a recall of 0.95. `meaning_p50_ms` and `meaning_p99_ms` are one
prompt at a time, from the event loop to its findings, without the way from the API; `meaning_cpu_ms` is the CPU time of it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.arms.prompt_layers import meaning, words
from benchmarks.lib import plots

THRESHOLD = 0.83


def plot_of(roc: list[tuple[float, float]], caught: dict[str, float]) -> Any:
    """Left: disguised words that are caught, by kind. Right: the ROC curve of the head on held-out prompts."""
    figure, grid = plots.canvas(1, 2, figsize=(12, 4))
    left, right = np.ravel(grid)
    left.barh(list(caught), list(caught.values()))
    left.set(xlim=(0, 1), xlabel="share caught")
    left.invert_yaxis()
    right.plot(*zip(*roc, strict=True))
    right.set(
        xlim=(-0.002, 0.1), ylim=(0.5, 1.005), xlabel="benign prompts found", ylabel="harmful prompts found"
    )
    right.grid(alpha=0.3)
    return figure


def main() -> None:
    import tempfile

    parser = report.parser(__doc__)
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="of the head's score")
    args = parser.parse_args()
    each = 1 if args.quick else 5
    figures, wrong = words(each)
    with tempfile.TemporaryDirectory() as folder:
        more, samples = asyncio.run(meaning(args.threshold, args.quick, Path(folder)))
    caught = {name.partition(": ")[2]: value for name, value in figures.items() if ": " in name}
    config = {"threshold": args.threshold, "times_each_disguise": each, "lookalikes": 1000}
    config |= {name: samples[name] for name in ("meaning_harmful", "meaning_benign")}
    kept = {
        "words_missed": wrong["missed"][:50],
        "words_false": wrong["false"],
        "meaning_wrong": samples["meaning_wrong"],
    }
    report.publish(
        args,
        "moderation_prompts",
        config,
        figures | more,
        kept | {"roc": samples["roc"]},
        plot_of(samples["roc"], caught),
    )


if __name__ == "__main__":
    main()

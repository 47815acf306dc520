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
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.arms.moderated_prompts import KINDS, disguised, lookalikes
from benchmarks.lib import plots
from benchmarks.lib.weapon_prompts import matcher, prompts
from moderation.embedding import MiniLm
from moderation.fit import report as figures_of_scores
from moderation.heads import Heads
from moderation.live import LivePolicy
from moderation.meaning import Meaning

THRESHOLD = 0.83
POLICY = "name: bench\nversion: 1\nmeaning: {heads: [{file: 'builtin:heads/weapons.prompts.json'}]}\nrules: {weapons: {}}\n"


def words(each: int) -> tuple[dict[str, float], dict[str, list[str]]]:
    """The figures of layer 1, and the prompts that it got wrong."""
    found, attempts, alike = matcher(), list(disguised(each)), lookalikes()
    missed = [(kind, prompt) for kind, prompt in attempts if not found.find("", prompt)]
    false = [prompt for prompt in alike if found.find("", prompt)]
    ordinary = [prompt for prompt, harmful in prompts("test") if not harmful]
    begun = time.process_time()
    for prompt in ordinary:
        found.find("", prompt)
    figures = {
        "words_caught": 1 - len(missed) / len(attempts),
        "words_false": len(false) / len(alike),
        "words_us": (time.process_time() - begun) / len(ordinary) * 1e6,
    }
    for kind in KINDS:
        of_kind = [prompt for name, prompt in attempts if name == kind]
        lost = sum(name == kind for name, _ in missed)
        figures[f"words_caught: {kind}"] = 1 - lost / len(of_kind)
    return figures, {"missed": [prompt for _, prompt in missed], "false": false}


async def meaning(threshold: float, quick: bool, folder: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """The figures of layer 2, its ROC curve, and the prompts that it got wrong."""
    path = folder / "policy.yaml"
    path.write_text(POLICY)
    model = MiniLm()
    layer = Meaning(model, LivePolicy.opened(path, lambda policy: Heads(policy, model.texts)))
    tried = prompts("test")[:: 10 if quick else 1]
    scores, times = [], []
    cpu = time.process_time()
    for prompt, _ in tried:
        begun = time.perf_counter()
        (found,) = (await layer.look([prompt])).findings
        times.append((time.perf_counter() - begun) * 1000)
        scores.append(found[0].score)
    layer.close()
    labels, values = np.array([harmful for _, harmful in tried]), np.array(scores)
    told = figures_of_scores(values, labels, 0.95)
    figures = {
        "meaning_recall": float((values[labels] >= threshold).mean()),
        "meaning_false": float((values[~labels] >= threshold).mean()),
        "meaning_auc": told.auc,
        "meaning_cpu_ms": (time.process_time() - cpu) / len(tried) * 1000,
        "meaning_p50_ms": float(np.percentile(times, 50)),
        "meaning_p99_ms": float(np.percentile(times, 99)),
    }
    wrong = [
        prompt
        for (prompt, harmful), score in zip(tried, scores, strict=True)
        if harmful != (score >= threshold)
    ]
    return figures, {
        "roc": told.roc,
        "meaning_wrong": wrong,
        "meaning_harmful": int(labels.sum()),
        "meaning_benign": int((~labels).sum()),
    }


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

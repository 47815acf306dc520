"""What `fidelity.py` measures of the student beyond one step from plain captions.

More steps: top 1 and likeness at each count. Free prompts: whether their thing is drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import free_prompts
from benchmarks.judge import Judge, background, paint
from models.recipe import data

COUNTS = (2, 4, 8)


def at_steps(
    judge: Judge, student: Any, texts: list[str], seeds: list[int], truth: Any, colours: Any
) -> dict[str, float]:
    """Top 1 and mean likeness to the thing asked for, at each count of steps."""
    figures = {}
    for count in (1, *COUNTS):
        pictures, _ = paint(student, texts, seeds, count, 0.0, 32)
        scores = judge.scores(pictures, colours)
        if count > 1:
            figures[f"concept_top1_{count}"] = float((scores.argmax(1) == truth).mean())
        figures[f"likeness_{count}"] = float(scores[np.arange(len(truth)), truth].mean())
    return figures


def free(judge: Judge, student: Any, emoji: data.EmojiSet, quick: bool) -> tuple[dict[str, float], Any]:
    """Top 1 over the free prompts, in all and for each kind, and the pictures.

    The prompts name no background, so the judge takes the one that it sees.
    """
    asked = free_prompts.prompts(emoji.concepts)[:: 4 if quick else 1]
    pictures, _ = paint(student, [p.text for p in asked], list(range(len(asked))), 1, 0.0, 32)
    found = judge.rank(pictures, background(pictures))[:, 0]
    right = found == np.array([p.concept for p in asked])
    kinds = np.array([p.kind for p in asked])
    figures = {"free_top1": float(right.mean())}
    for kind in free_prompts.KINDS:
        figures[f"free_{kind.replace(' ', '_')}"] = float(right[kinds == kind].mean())
    return figures, pictures

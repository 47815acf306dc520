"""What the layers of prompts find, refuse by mistake and cost: the measures of `benchmarks/moderation_prompts.py`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arms.moderated_prompts import KINDS, disguised, lookalikes
from benchmarks.lib.weapon_prompts import matcher, prompts
from moderation.embedding import MiniLm
from moderation.fit import report as figures_of_scores
from moderation.heads import Heads
from moderation.live import LivePolicy
from moderation.meaning import Meaning

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

"""The models that look at pictures: the head on the embedding, and a packaged classifier in float and in int8."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from benchmarks.arms.known_images import MODELS, Clip, Rgb
from contracts.ports.picture_judge import PictureToJudge
from models.recipe import weapons
from moderation.hashes.pdq import hashes_of
from moderation.pictures.fit import auc_of, roc_of
from moderation.pictures.head import read_head
from moderation.pictures.onnx_model import NSFW, open_model
from moderation.pictures.quantise import quantise

HEAD: Final = Path(__file__).parents[2] / "moderation" / "heads" / "weapons.pictures.json"
LARGE_SIDE: Final = 512
NSFW_THRESHOLD: Final = 0.8
"""The packaged model's authors call higher scores unsafe."""
WARM: Final = 3


def drawn(seed: int, share: float, *, held_out: bool) -> tuple[list[Rgb], Any, list[str]]:
    """Pictures, whether each is of a weapon, and what each was asked to show."""
    asked = weapons.requests(seed, held_out=held_out, share=share)
    pictures = weapons.draw(MODELS / "emoji-turbo", asked, seed)
    return list(pictures), np.array([thing in weapons.WEAPONS for thing, _ in asked]), [t for t, _ in asked]


def measure_head(clip: Clip, seed: int, share: float, threshold: float) -> tuple[dict[str, float], Any]:
    """Recall and false alarms of the shipped head on pictures of no training."""
    head = read_head(HEAD, clip.clip)
    figures: dict[str, float] = {}
    curves = {}
    for name, held_out in (("seeds", False), ("held_out", True)):
        pictures, labels, _ = drawn(seed + held_out, share, held_out=held_out)
        scores = head.scores(clip.vectors(pictures))
        figures |= {
            f"head_{name}_pictures": float(len(labels)),
            f"head_{name}_weapons": float(labels.sum()),
            f"head_{name}_recall": float((scores[labels] >= threshold).mean()),
            f"head_{name}_false_alarms": float((scores[~labels] >= threshold).mean()),
            f"head_{name}_auc": auc_of(scores, labels),
        }
        curves[name] = roc_of(scores, labels)
    figures["head_recall"] = min(figures["head_seeds_recall"], figures["head_held_out_recall"])
    figures["head_false_alarms"] = max(
        figures["head_seeds_false_alarms"], figures["head_held_out_false_alarms"]
    )
    return figures, curves


def cpu_ms(call: Callable[[], object], rounds: int) -> list[float]:
    """The CPU time of each call, in milliseconds, after some that are not counted."""
    taken = []
    for number in range(rounds + WARM):
        begun = time.process_time()
        call()
        if number >= WARM:
            taken.append(1000 * (time.process_time() - begun))
    return taken


def measure_times(clip: Clip, pictures: list[Rgb], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """CPU milliseconds of each part of layer 3 for one picture, on one thread."""
    head = read_head(HEAD, clip.clip)
    small = pictures[0]
    large = np.asarray(Image.fromarray(small).resize((LARGE_SIDE, LARGE_SIDE)))
    vector = clip.embed(small)
    picture = PictureToJudge(small.tobytes(), small.shape[1], small.shape[0], b"", "t", vector, clip.clip)
    samples = {
        "pdq_64_ms": cpu_ms(lambda: hashes_of(small), rounds),
        "pdq_512_ms": cpu_ms(lambda: hashes_of(large), rounds),
        "head_ms": cpu_ms(lambda: head.look(picture), rounds),
    }
    return {name: float(np.median(taken)) for name, taken in samples.items()}, samples


def measure_nsfw(pictures: list[Rgb], rounds: int, folder: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """The packaged classifier: time and false alarms, and what int8 changes. There is nothing unsafe to find here."""
    calibration, asked = pictures[::4], [each for at, each in enumerate(pictures) if at % 4]
    (folder / "calibration").mkdir()
    for number, rgb in enumerate(calibration):
        Image.fromarray(rgb).save(folder / "calibration" / f"{number}.png")
    whole, weights = open_model(NSFW, None)
    quantise(whole, weights, folder / "calibration", folder / "nsfw.int8.onnx")
    small, _ = open_model(NSFW, folder / "nsfw.int8.onnx")
    prepared = whole.prepare(asked[0])
    name = whole.session.get_inputs()[0].name
    # In turns, so that what else the machine does is in both.
    taken: dict[str, list[float]] = {"float": [], "int8": []}
    for _ in range(rounds):
        taken["float"] += cpu_ms(lambda: whole.session.run(None, {name: prepared}), 1)
        taken["int8"] += cpu_ms(lambda: small.session.run(None, {name: prepared}), 1)
    scores = np.array([whole.scores(each)[1] for each in asked])
    again = np.array([small.scores(each)[1] for each in asked])
    drift = np.abs(scores - again)
    changed = (scores >= NSFW_THRESHOLD) != (again >= NSFW_THRESHOLD)
    ratios = np.array(taken["int8"]) / np.array(taken["float"])
    return {
        "nsfw_pictures": float(len(asked)),
        "nsfw_prepare_ms": float(np.median(cpu_ms(lambda: whole.prepare(asked[0]), rounds))),
        "nsfw_float_ms": float(np.median(taken["float"])),
        "nsfw_int8_ms": float(np.median(taken["int8"])),
        "nsfw_int8_over_float": float(np.median(ratios)),
        "nsfw_false_alarms": float((scores >= NSFW_THRESHOLD).mean()),
        "nsfw_highest_score": float(scores.max()),
        "nsfw_drift_mean": float(drift.mean()),
        "nsfw_drift_max": float(drift.max()),
        "nsfw_verdicts_changed": float(changed.mean()),
    }, {"nsfw": taken}


def plot_of(known: Any, curves: Any) -> Any:
    """Recall after each change, and the ROC of the head."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5))
    for at, name in enumerate(("PDQ", "embedding", "either")):
        left.bar(
            [place + 0.27 * at for place in range(len(known))],
            [recall[at] for recall in known.values()],
            0.25,
            label=name,
        )
    left.set_xticks([place + 0.27 for place in range(len(known))], list(known))
    left.set(title="known images found after", ylabel="share", ylim=(0, 1.02))
    left.legend(fontsize=8, loc="lower left")
    for name, points in curves.items():
        right.plot([each[2] for each in points], [each[1] for each in points], label=name)
    right.set(
        title="picture head, weapons",
        xlabel="false alarms",
        ylabel="recall",
        xlim=(0, 0.1),
        ylim=(0.9, 1.002),
    )
    right.grid(alpha=0.3)
    right.legend(fontsize=8)
    return figure

"""How well the embedded models paint what they are asked for.

    python -m benchmarks.fidelity --json out.json --html out.html --grid grid.png

`judge.py` says how a picture is judged. The prompts of `free_top1` are in `free_prompts.py`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import report
from benchmarks.arms import few_steps, image_to_image
from benchmarks.judge import Judge, background, open_pipeline, paint
from models.recipe import captions, data, text


@dataclass(frozen=True, slots=True)
class Prompt:
    """A caption, what it should show, and which group of figures it counts for."""

    text: str
    concept: int
    colour: int
    group: str


def prompts(emoji: data.EmojiSet, rng: np.random.Generator, each: int) -> list[Prompt]:
    """`each` rounds over all concepts for seen, held-out and synonym captions."""
    colours = tuple(data.COLOURS)
    table = []
    for _ in range(each):
        for i, concept in enumerate(emoji.concepts):
            out = [c for c, name in enumerate(colours) if data.held_out(concept.name, name)]
            seen = [c for c in range(len(colours)) if c not in out]
            style = (None, *data.STYLES)[int(rng.integers(3))]
            c = int(rng.choice(seen))
            table.append(Prompt(captions.write(concept.name, colours[c], style), i, c, "seen"))
            if out:
                c = int(rng.choice(out))
                text = captions.write(concept.name, colours[c], style)
                table.append(Prompt(text, i, c, "heldout"))
            if concept.synonyms:
                c = int(rng.choice(seen))
                word = concept.synonyms[int(rng.integers(len(concept.synonyms)))]
                table.append(Prompt(captions.write(word, colours[c]), i, c, "synonym"))
    return table


def clip_top1(folder: Path, emoji: data.EmojiSet, pictures: Any, asked: list[Prompt]) -> float:
    """How often the shipped CLIP finds the right concept among all, on the background asked for."""
    from transformers import CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(folder, local_files_only=True).float().eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() * 2 - 1
    right = 0
    with torch.inference_mode():
        seen = torch.nn.functional.normalize(model.get_image_features(pixel_values=pixels).pooler_output)
        for number, colour in enumerate(data.COLOURS):
            rows = [i for i, prompt in enumerate(asked) if prompt.colour == number]
            texts = [captions.write(concept.name, colour) for concept in emoji.concepts]
            ids = text.tokens(tokenizer, texts)
            said = torch.nn.functional.normalize(model.get_text_features(input_ids=ids).pooler_output)
            best = (seen[rows] @ said.T).argmax(1).tolist()
            right += sum(found == asked[i].concept for i, found in zip(rows, best, strict=True))
    return right / len(asked)


def measure(args: argparse.Namespace) -> tuple[dict[str, float], dict[str, int], list[Any]]:
    """All figures, how many samples each rests on, and pictures for the grid."""
    emoji = data.load(args.cache)
    judge = Judge(emoji)
    student = open_pipeline(args.models / "emoji-turbo")
    rng = np.random.default_rng(args.seed)
    asked = prompts(emoji, rng, 1 if args.quick else 2)
    if args.quick:
        asked = asked[::4]
    texts = [p.text for p in asked]
    seeds = list(range(len(asked)))
    truth = np.array([p.concept for p in asked])
    colours = np.array([p.colour for p in asked])
    groups = np.array([p.group for p in asked])
    pictures, _ = paint(student, texts, seeds, 1, 0.0, 32)
    ranks = judge.rank(pictures, colours)
    right = ranks[:, 0] == truth
    five = (ranks[:, :5] == truth[:, None]).any(1)
    figures = {
        "concept_top1": float(right[groups == "seen"].mean()),
        "concept_top5": float(five[groups == "seen"].mean()),
        "colour_accuracy": float((background(pictures) == colours).mean()),
        "heldout_top1": float(right[groups == "heldout"].mean()),
        "synonym_top1": float(right[groups == "synonym"].mean()),
    }
    figures["clip_top1"] = clip_top1(args.models / "emoji-clip", emoji, pictures, asked)
    # Captions without a colour: the judge takes the one that it sees.
    bare = [captions.write(concept.name) for concept in emoji.concepts][:: 4 if args.quick else 1]
    plain, _ = paint(student, bare, list(range(len(bare))), 1, 0.0, 32)
    named = np.arange(len(emoji.concepts))[:: 4 if args.quick else 1]
    figures["bare_top1"] = float((judge.rank(plain, background(plain))[:, 0] == named).mean())
    # What a judge would score that looks at nothing: the same pictures against the prompts of others.
    figures["control_top1"] = float((ranks[:, 0] == rng.permutation(truth)).mean())
    samples = {f"{g}_prompts": int((groups == g).sum()) for g in ("seen", "heldout", "synonym")}
    seen = np.flatnonzero(groups == "seen")[:: 8 if args.quick else 2]
    figures |= few_steps.at_steps(
        judge, student, [texts[i] for i in seen], [seeds[i] for i in seen], truth[seen], colours[seen]
    )
    samples["steps_prompts"] = len(seen)
    told, _ = few_steps.free(judge, student, emoji, args.quick)
    images = 32 if args.quick else 128
    figures |= told | image_to_image.images(judge, student, emoji, images)
    samples |= {"free_prompts": 75 if args.quick else 300, "images": images}
    few = [texts[i] for i in np.flatnonzero(groups == "seen")[:: 16 if args.quick else 8]]
    again = np.stack([paint(student, few, [1000 + k] * len(few), 1, 0.0, 32)[0] for k in range(4)])
    figures["seed_diversity"] = float(np.sqrt(again.var(0).mean((1, 2, 3))).mean())
    paint(student, few[:1], [0], 1, 0.0, 1)
    _, figures["ms_per_picture"] = paint(student, few[:12], list(range(12)), 1, 0.0, 1)
    base = args.models / "emoji-base"
    if (base / "model_index.json").exists():
        teacher = open_pipeline(base)
        chosen = np.flatnonzero(groups == "seen")[:: 8 if args.quick else 3]
        many = [texts[i] for i in chosen]
        drawn, _ = paint(teacher, many, [seeds[i] for i in chosen], 25, args.guidance, 32)
        top = judge.rank(drawn, colours[chosen])[:, 0]
        figures["teacher_top1"] = float((top == truth[chosen]).mean())
        _, slow = paint(teacher, few[:6], list(range(6)), 25, args.guidance, 1)
        figures["student_speedup"] = slow / figures["ms_per_picture"]
        samples["teacher_prompts"] = len(many)
    wrong = np.flatnonzero(~right & (groups == "seen"))
    for i in wrong[: args.show_wrong]:
        print(f"{texts[i]!r} seen as {emoji.concepts[int(ranks[i, 0])].name!r}")
    shown = np.flatnonzero(groups == "seen")[::3][:96]
    samples["bare_prompts"] = len(bare)
    return figures, samples, list(pictures[shown])


def grid(pictures: list[Any], across: int = 12) -> Image.Image:
    """Pictures side by side."""
    rows = -(-len(pictures) // across)
    sheet = np.ones((rows * 64, across * 64, 3), np.float32)
    for i, picture in enumerate(pictures):
        y, x = divmod(i, across)
        sheet[y * 64 : y * 64 + 64, x * 64 : x * 64 + 64] = picture
    return Image.fromarray((sheet * 255).round().clip(0, 255).astype(np.uint8))


def plot_of(figures: dict[str, float]) -> Any:
    """The shares as bars."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    shares = {name: value for name, value in figures.items() if name.endswith(("top1", "top5", "accuracy"))}
    figure, axes = pyplot.subplots(figsize=(8, 4))
    axes.barh(list(shares), list(shares.values()))
    axes.set(xlim=(0, 1), xlabel="share of pictures")
    axes.invert_yaxis()
    return figure


def main() -> None:
    """Measures, prints, and writes what was asked for."""
    parser = report.parser(__doc__)
    parser.add_argument("--grid", type=Path)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--cache", type=Path, default=Path(".cache/emoji"))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--guidance", type=float, default=1.5, help="the teacher's guidance")
    parser.add_argument("--show-wrong", type=int, default=0, metavar="N")
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures, samples, pictures = measure(args)
    config = {"seed": args.seed, "teacher_guidance": args.guidance, "threads": 1}
    report.publish(args, "fidelity", config, figures, dict(samples), plot_of(figures))
    if args.grid:
        grid(pictures).save(args.grid, optimize=True)


if __name__ == "__main__":
    main()

"""`python -m models.recipe`: fetches the data, trains every stage, writes the model folders.

Each stage resumes from its checkpoint in the cache. For two cores, start two processes with
WORLD_SIZE=2, RANK=0 and RANK=1, MASTER_ADDR and MASTER_PORT set, as torchrun does; stages up to
`text` are trained by the first alone. `--stage shipped --stage few_steps --stage free_text --stage export`
trains the last stages of the student alone, from the weights in the model folders.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from models.recipe import (
    autoencoder,
    captions,
    clip,
    common,
    data,
    distil,
    export,
    few_steps,
    free_text,
    one_step,
    painter,
    shipped,
    text,
)
from models.recipe import teacher as teacher_stage
from models.recipe.common import Settings

STAGES = (
    "data",
    "autoencoder",
    "text",
    "one_step",
    "teacher",
    "distil",
    "few_steps",
    "free_text",
    "clip",
    "export",
)
MODELS = Path(__file__).parents[1]
QUICK_CONCEPTS = 24


def export_models(settings: Settings, emoji: data.EmojiSet) -> None:
    """Writes the folders of the student, the teacher and the CLIP, as far as they are trained."""
    composer = captions.Composer(emoji.concepts)
    tokenizer = text.tokenizer(settings.work / "tokenizer", composer.all_texts())
    factor = painter.scaling_factor(settings, emoji)
    work = settings.work
    student = painter.newest(settings, "free_text", "few_steps", "distil", "one_step")
    for folder, checkpoint in (("emoji-turbo", student), ("emoji-base", work / "teacher.pt")):
        if checkpoint.exists():
            vae = work / "autoencoder.pt"
            pipeline = export.assemble(vae, checkpoint, tokenizer, factor)
            export.write(pipeline, settings.out / folder)
    clip.write(settings, emoji, settings.out / "emoji-clip")


def main(arguments: list[str] | None = None) -> None:
    """Runs the stages asked for, all of them by default."""
    parser = argparse.ArgumentParser(prog="python -m models.recipe", description=__doc__)
    parser.add_argument("--stage", choices=("shipped", *STAGES), action="append", help="only this stage")
    parser.add_argument("--quick", action="store_true", help="a short pass of every stage")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--steps", type=int, help="train a stage for this many steps in all")
    parser.add_argument("--cache", type=Path, default=Path(".cache/emoji"))
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    crew = common.Crew.join()
    out = args.cache / "quick-models" if args.quick else MODELS
    settings = Settings(args.cache, out, args.quick, args.resume, steps=args.steps)
    if args.quick and not args.resume:
        shutil.rmtree(settings.work)
    emoji = data.load(args.cache)
    if args.quick:
        emoji = data.EmojiSet(emoji.concepts[:QUICK_CONCEPTS], emoji.sprites[:QUICK_CONCEPTS])
    alone: dict[str, Callable[[], object]] = {
        "shipped": lambda: shipped.unpack(settings, MODELS),
        "autoencoder": lambda: autoencoder.train(settings, emoji),
        "text": lambda: text.train(settings, emoji, settings.work / "tokenizer"),
        "free_text": lambda: free_text.train(settings, emoji),
        "clip": lambda: clip.train(settings, emoji),
        "export": lambda: export_models(settings, emoji),
    }
    together: dict[str, Callable[[], object]] = {
        "one_step": lambda: one_step.train(settings, emoji),
        "teacher": lambda: teacher_stage.train(settings, emoji),
        "distil": lambda: distil.train(settings, emoji),
        "few_steps": lambda: few_steps.train(settings, emoji),
    }
    for stage in args.stage or STAGES:
        if stage in together:
            together[stage]()
        elif stage in alone and crew.rank == 0:
            alone[stage]()
        crew.wait()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on from the last checkpoint.")

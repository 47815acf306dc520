"""What a picture costs now, beside what it cost before: CPU, submits, the device's idle time, round trips, memory.

    python -m benchmarks.generations --json out.json --html out.html
    python -m benchmarks.generations --monitor      # what Redis is told for one cold picture, one hit, one joined request

Puts this tree beside revision 5a88f54 (`--before`), which gets a checkout and an environment of its own under
`.cache/generations` (benchmarks/arms/checkout.py says why that is fair). Each arm has a Redis, a RabbitMQ, an API and a worker of
its own. Sessions alternate between the arms, round after round, every order once in six rounds; a third arm, this tree once more,
is the control (A/A). A ratio is the median of the ratios of neighbours, with `_low` and `_high` its interval (95 % from six rounds
on). The engine has a core of its own; where submits are counted, the API has it.

Everything is read from outside: HTTP, /metrics, /proc, Redis' own statistics, and proxies that count what passes. CPU is of API,
worker without its engine, Redis and RabbitMQ, at saturation, by picture: with an engine that takes no time (`cpu_over_before`)
and with the embedded model (`cpu_over_before_embedded`). `awaited_trips` are the exchanges with Redis that a cold picture waits
for: each kind of exchange is slowed in turn, and what comes later has waited (benchmarks/arms/trips.py). `redis_commands` are those
of one picture among others, scripts' own among them; `redis_commands_alone` of one after a pause, when nothing is remembered.
`device_idle` is the share of a saturated session that the engine did not spend in passes, by its own clock; `core_idle` that in
which its process neither ran nor stood ready to. `--quick` measures this tree twice instead of starting a third arm, so what is
counted has no control.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks import report
from benchmarks.arms import checkout, monitor, sessions
from benchmarks.arms.checkout import Unavailable
from benchmarks.arms.comparison import FULL, QUICK, Comparison
from benchmarks.arms.figures import figures_of, plot_of, samples_of, tables_of
from benchmarks.lib.ratios import ratio
from benchmarks.lib.saturate import CLIENTS

BEFORE: Final = "5a88f54"


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--before", default=BEFORE, help=f"the revision to compare with; {BEFORE} by default")
    parser.add_argument("--now", help="a revision instead of this tree")
    parser.add_argument(
        "--monitor",
        action="store_true",
        help="print what Redis is told for a picture, a hit and a joined request",
    )
    args = parser.parse_args()
    try:
        now = checkout.tree_of(args.now) if args.now else checkout.here()
        before = now if args.monitor else checkout.tree_of(args.before)
    except Unavailable as error:
        raise SystemExit(str(error)) from None
    with tempfile.TemporaryDirectory() as name:
        if args.monitor:
            print(monitor.report(now, Path(name)))
            return
        extent = QUICK if args.quick else FULL
        comparison = Comparison(before, now, extent, Path(name))
        comparison.run()
    found = comparison.found
    figures = figures_of(found)
    config = {
        **asdict(extent),
        "before": before.revision,
        "now": now.revision,
        "packages_of_before_that_differ": list(before.own_packages),
        "clients_drawing": CLIENTS,
        "clients_submitting": sessions.SUBMITTERS,
        "interval_covers": ratio([1.0] * extent.rounds, [1.0] * extent.rounds).covers,
    }
    line = (
        f"generations: of what {before.revision} takes, {now.revision} takes {figures['cpu_over_before']:.2f} of the CPU a picture "
        f"({figures['cpu_over_before_low']:.2f} to {figures['cpu_over_before_high']:.2f}, A/A "
        f"{figures['cpu_over_before_control']:.2f}), {figures['awaited_trips']:.0f} awaited trips instead of "
        f"{figures['awaited_trips_before']:.0f}, {figures['redis_commands']:.0f} commands instead of "
        f"{figures['redis_commands_before']:.0f}, and accepts {figures['submit_rate_over_before']:.2f} of the submits a second"
    )
    report.publish(
        args,
        "generations",
        config,
        figures,
        samples_of(found),
        plot_of(found),
        tables_of(figures, found),
        line,
    )


if __name__ == "__main__":
    main()

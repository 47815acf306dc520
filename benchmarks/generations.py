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

import itertools
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import report
from benchmarks.arms import checkout, monitor, processes, sessions, trips
from benchmarks.arms.checkout import Tree, Unavailable
from benchmarks.arms.deployment import EMBEDDED, FAKE, SLOW, Arm, picture, serving
from benchmarks.arms.figures import ARMS, Found, figures_of, plot_of, samples_of, tables_of
from benchmarks.arms.ratios import ratio

BEFORE: Final = "5a88f54"


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured: seconds of a session, jobs that are weighed and the seconds before that, pictures that are counted, also `alone`, and `tries` of each
    kind of exchange. `control`: this tree is started twice."""

    control: bool
    rounds: int
    fake_s: float
    embedded_s: float
    submit_s: float
    jobs: int
    settle_s: float
    pictures: int
    alone: int
    tries: int


FULL: Final = Extent(True, 6, 3.0, 5.0, 1.5, jobs=512, settle_s=12.0, pictures=15, alone=4, tries=3)
QUICK: Final = Extent(False, 1, 1.0, 2.0, 0.5, jobs=128, settle_s=1.0, pictures=5, alone=2, tries=1)


def orders(rounds: int) -> list[tuple[str, ...]]:
    """Neither place nor neighbour favours an arm."""
    return list(itertools.islice(itertools.cycle(itertools.permutations(ARMS)), rounds))


class Comparison:
    """The arms, by what each is measured as, and what was found."""

    def __init__(self, before: Tree, now: Tree, extent: Extent, folder: Path) -> None:
        self.found = Found()
        self._extent = extent
        self._arms = {name: Arm(name, now, folder / name) for name in ARMS[1:]}
        if not extent.control:
            self._arms["now_again"] = self._arms["now"]
        self._arms = {"before": Arm("before", before, folder / "before"), **self._arms}
        self._each = list(dict.fromkeys(self._arms.values()))
        self.found.weighed = {arm.name: {} for arm in self._each}

    def run(self) -> None:
        extent = self._extent
        processes.leave_the_engines_core()
        with ExitStack() as stack:
            for arm in self._each:
                stack.callback(arm.stop)
                arm.start()
            with trips.quiet(self._each) as platforms:
                for platform in platforms:
                    _say(f"{platform.arm.name}: counting ...")
                    counted = trips.count(platform, extent.pictures, extent.alone, extent.tries)
                    self.found.trips[platform.arm.name] = counted
            stack.enter_context(serving(self._each))
            for arm in self._each:
                self.found.weighed[arm.name]["api_mb"] = processes.resident_mb(processes.family(arm.api))
            self._saturate(FAKE, extent.fake_s)
            self._saturate(EMBEDDED, extent.embedded_s)
            self._submit()

    def _saturate(self, model: str, seconds: float) -> None:
        with serving(self._each, model):
            processes.place(self._each, "engine")
            for arm in self._each:
                weight = processes.resident_mb(processes.family(arm.worker.process))
                self.found.weighed[arm.name][f"worker_mb_{model}"] = weight
            if model == FAKE:
                self._weigh_jobs("redis_bytes_finished", "succeeded", FAKE)
            for arm in self._each:
                sessions.draw(arm, model, seconds / 2)
            samples = self.found.drawn[model] = {name: [] for name in ARMS}
            for name in self._turns(model):
                samples[name].append(sessions.draw(self._arms[name], model, seconds))

    def _submit(self) -> None:
        with serving(self._each, SLOW):
            processes.place(self._each, "api")
            self._weigh_jobs("redis_bytes_queued", "queued", SLOW, sessions.SLOW_PROMPT)
            self.found.submits = {name: [] for name in ARMS}
            for name in self._turns("submits"):
                rate = sessions.submit_rate(self._arms[name], self._extent.submit_s)
                self.found.submits[name].append(rate)

    def _weigh_jobs(self, figure: str, status: str, *what: str) -> None:
        extent = self._extent
        found = sessions.redis_bytes(
            self._each, extent.jobs, partial(picture, *what), status, extent.settle_s
        )
        for name, value in found.items():
            self.found.weighed[name][figure] = value

    def _turns(self, what: str) -> Iterator[str]:
        for order in orders(self._extent.rounds):
            _say(f"{what}: {', '.join(order)} ...")
            yield from order


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


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
        "clients_drawing": sessions.DRAWERS,
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

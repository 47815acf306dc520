"""One run of the load test: warm up, search for capacity, load, audit, report."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, Final

from benchmarks import report
from benchmarks.load import capacity, charts, compare, measure, outcome, tables
from benchmarks.load.audit import audited, books
from benchmarks.load.capacity import Trial
from benchmarks.load.generator import Generator, Target
from benchmarks.load.schedule import Load
from benchmarks.load.session import Result, Session, ceiling

LOAD_SHARE: Final = 0.7
FIRST_RATE: Final = 4.0
NEAR: Final = 0.7
"""A load above this share of the generator's ceiling is too near to it."""


def measured(
    args: argparse.Namespace,
    generator: Generator,
    target: Target,
    load: Load,
    redis_url: str | None,
    baseline: dict[str, Any] | None,
) -> int:
    bar = not args.no_bar and sys.stderr.isatty()
    figures: dict[str, float] = {}
    if not args.no_ceiling:
        figures["generator_ceiling_per_s"] = ceiling(generator, 1.0 if args.quick else 3.0, bar)
    # Requests of another run of this script may still be in the server's cache.
    session = Session(generator, target, load, args.slo, int(time.time()) % 1_000_000, bar)
    session.run(FIRST_RATE, 2.0, "warming up")
    trials: list[Trial] = []
    again = False
    if args.find_capacity:
        trial = session.trial(args.window)
        found, trials = capacity.search(trial, FIRST_RATE)
        found, again, more = capacity.confirm(trial, found)
        trials += more
        figures["capacity_per_s"] = found
    rate = args.rate or LOAD_SHARE * figures["capacity_per_s"] or FIRST_RATE
    done = session.run(rate, args.duration, f"loading at {rate:.3g}/s")
    last = capacity.judge(done.samples, rate, args.duration, args.slo, done.figures)
    checked, asked = audited(target, session.all)
    balanced, said = books(redis_url)
    figures = {**done.figures, **figures, "accepted": checked.accepted, "lost": checked.lost}
    figures["unsettled"] = checked.unsettled
    figures["repeat_share"] = done.planned.popularity.measured
    figures["repeat_share_expected"] = done.planned.popularity.expected
    warning = measure.bottleneck(done.figures)
    if capacity.generators_end(trials):
        warning = warning or "the search for capacity ended at the generator's own end"
    if done.figures["offered_per_s"] > NEAR * figures.get("generator_ceiling_per_s", float("inf")):
        warning = warning or f"the load is above {NEAR:.0%} of the generator's ceiling"
    told = None
    if args.find_capacity:
        told = outcome.describe_capacity(figures["capacity_per_s"], again, trials, last)
        figures["capacity_confirmed"] = float(outcome.is_confirmed(figures["capacity_per_s"], again, last))
    errors = measure.errors(done.samples)
    line = outcome.summary(figures, args.slo, errors, told, warning)
    report.publish(
        args,
        "load",
        {**tables.config(args, load, rate, target, done, checked, trials), "audit": said},
        figures,
        {**measure.columns(done.samples), "series": done.series},
        charts.charts(done.samples, args.duration, args.slo, done.series, trials),
        tables.tables(done, checked, trials),
        line,
    )
    if not asked:
        print(
            f"{target.url} no longer answers: what became of the accepted jobs is not known.", file=sys.stderr
        )
    if checked.lost or not balanced:
        print(f"Lost jobs: {checked.lost}. The platform's own books: {said}", file=sys.stderr)
    answered = any(each.ok for each in done.samples)
    return outcome.exit_code(
        lost=bool(checked.lost) or not balanced,
        answered=answered and asked,
        error_share=done.figures["error_share"],
        max_errors=args.max_errors,
        regressed=baseline is not None and answered and _regressed(args, done, baseline),
    )


def _regressed(args: argparse.Namespace, done: Result, old: dict[str, Any]) -> bool:
    """Whether the run is surely worse than the baseline; prints how it differs."""
    found = compare.compare(
        compare.Run.of(old["samples"], args.slo),
        compare.Run.of(measure.columns(done.samples), args.slo),
        args.tolerance,
    )
    for each in found:
        print(each)
    if old["config"].get("rate") != args.rate:
        print(
            f"Note: the baseline ran at {old['config'].get('rate')} requests per second; give --rate to compare."
        )
    return any(each.regressed for each in found)

"""What a deployment can carry: an open-loop load, its latencies, and the highest rate that holds the SLO.

    python -m benchmarks.load                                  # starts a platform, finds its capacity, loads it at 70 %
    python -m benchmarks.load --server URL --rate 20           # loads yours
    darkroom bench --server URL --find-capacity --html out.html

Requests leave at times that were drawn beforehand, whatever the server does, and each one's latency counts from when it was
due. Everything accepted is asked for again at the end: lost must be 0. The generator's own ceiling is measured too, and
a run that it has distorted says so. A capacity is tried again before it is named.

Exit codes: 0 all well; 1 the server does not answer, or not one request succeeded; 2 bad arguments; 3 surely worse than the --baseline;
4 accepted jobs are lost, or the platform's own books do not balance; 5 more requests than --max-errors were refused or failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks import report
from benchmarks.load import capacity, charts, compare, measure, options, outcome
from benchmarks.load.audit import Audit, audit, books
from benchmarks.load.capacity import Trial
from benchmarks.load.ceiling import constant_server
from benchmarks.load.generator import Generator, Target
from benchmarks.load.sample import Sample
from benchmarks.load.schedule import Load
from benchmarks.load.session import FEWEST, NoRequests, Result, Session

LOAD_SHARE: Final = 0.7
FIRST_RATE: Final = 4.0
CEILING_SLO_S: Final = 0.05
CEILING_FIRST: Final = 200.0
NEAR: Final = 0.7
"""A load above this share of the generator's ceiling is too near to it."""
REACH_S: Final = 10.0


def main() -> int:
    args = options.parser(__doc__).parse_args()
    try:
        weights, keys = options.tenants(args.tenants)
        load = options.load_of(args, weights)
        baseline = options.baseline(args.baseline) if args.baseline else None
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return outcome.ARGUMENTS
    args.duration = args.duration or (8.0 if args.quick else 60.0)
    args.window = args.window or (3.0 if args.quick else 10.0)
    args.find_capacity = args.find_capacity or args.rate is None
    with ExitStack() as stack:
        url, redis_url = args.server, os.environ.get("DARKROOM_REDIS_URL")
        if url is None:
            from benchmarks.load.embedded import platform

            print("Starting a platform ...", file=sys.stderr)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            running = stack.enter_context(platform(folder, args.broker, args.workers))
            url, redis_url = running.url, running.redis.url if running.redis else redis_url
        target = Target(url, keys, args.timeout, args.poll, args.hook_host)
        try:
            httpx.get(f"{target.url}/healthz", timeout=REACH_S)
        except httpx.HTTPError as error:
            print(f"{target.url} does not answer: {type(error).__name__}.", file=sys.stderr)
            return outcome.NO_ANSWER
        generator = stack.enter_context(Generator(args.processes))
        try:
            return _measured(args, generator, target, load, redis_url, baseline)
        except NoRequests as error:
            print(error, file=sys.stderr)
            return outcome.ARGUMENTS


def _measured(
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
        figures["generator_ceiling_per_s"] = _ceiling(args, generator, bar)
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
    checked, asked = _audited(target, session.all)
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
        {**_config(args, load, rate, target, done, checked, trials), "audit": said},
        figures,
        {**measure.columns(done.samples), "series": done.series},
        charts.charts(done.samples, args.duration, args.slo, done.series, trials),
        _tables(done, checked, trials),
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


def _audited(target: Target, samples: list[Sample]) -> tuple[Audit, bool]:
    """(what became of the accepted jobs, whether the server could be asked)."""
    try:
        return audit(target, samples), True
    except httpx.HTTPError:
        accepted = sum(each.job_id is not None for each in samples)
        return Audit(accepted, 0, accepted), False


def _ceiling(args: argparse.Namespace, generator: Generator, bar: bool) -> float:
    """The rate at which the generator can still send on time, to a server that does nothing."""
    with constant_server() as url:
        session = Session(generator, Target(url, {}), Load(repeats=0.0), CEILING_SLO_S, 0, bar)
        session.run(CEILING_FIRST, 1.0, "warming up")
        seconds = 1.0 if args.quick else 3.0

        def trial(rate: float) -> Trial:
            if rate * seconds < FEWEST:
                return capacity.too_few(rate)
            done = session.run(rate, seconds, f"the generator's ceiling: {rate:.0f}/s")
            judged = capacity.judge(done.samples, rate, seconds, CEILING_SLO_S, done.figures)
            late = done.figures["generator_lag_p99_ms"] > measure.LATE_S * 1000
            return Trial(
                **{**asdict(judged), "holds": judged.holds and not late, "limited": False, "easy": False}
            )

        found, _ = capacity.search(trial, CEILING_FIRST, close=1.2)
    return found


def _config(
    args: argparse.Namespace,
    load: Load,
    rate: float,
    target: Target,
    done: Result,
    checked: Audit,
    trials: list[Trial],
) -> dict[str, Any]:
    return {
        "errors": measure.errors(done.samples),
        "server": "embedded" if args.server is None else target.url,
        "broker": args.broker if args.server is None else None,
        "rate": rate,
        "duration_s": args.duration,
        "slo_s": args.slo,
        "load": json.loads(json.dumps(asdict(load), default=str)),
        "zipf_exponent": done.planned.popularity.exponent,
        "processes": args.processes,
        "classes": measure.classes(done.samples),
        "batches": {str(size): count for size, count in measure.batches(done.samples).items()},
        "states": checked.states,
        "trials": [asdict(trial) for trial in trials],
    }


def _tables(done: Result, checked: Audit, trials: list[Trial]) -> dict[str, report.Table]:
    heads = ["count", *(f"p{percent:g}" for percent in measure.PERCENTILES)]
    tables: dict[str, report.Table] = {}
    if found := measure.errors(done.samples):
        tables["errors"] = [["code", "requests"], *found.items()]
    for name, groups in measure.classes(done.samples).items():
        rows = [
            [group, *(f"{values.get(head, 0):.5g}" for head in heads)] for group, values in groups.items()
        ]
        tables[f"milliseconds by {name}"] = [[name, *heads], *rows]
    tables["accepted jobs, asked for again"] = [["state", "jobs"], *checked.states.items()]
    if trials:
        tables["search for capacity"] = [
            ["requests/s", "within SLO", "p99 ms", "holds"],
            *(
                [
                    f"{each.rate:.4g}",
                    f"{each.within_slo:.2%}",
                    "-" if each.p99_ms is None else f"{each.p99_ms:.0f}",
                    each.holds,
                ]
                for each in trials
            ),
        ]
    return tables


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


if __name__ == "__main__":
    sys.exit(main())

"""What a load report says beside its figures: how it was loaded, and tables."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from benchmarks.load import measure
from benchmarks.load.audit import Audit
from benchmarks.load.capacity import Trial
from benchmarks.load.generator import Target
from benchmarks.load.schedule import Load
from benchmarks.load.session import Result
from benchmarks.report import Table


def config(
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


def tables(done: Result, checked: Audit, trials: list[Trial]) -> dict[str, Table]:
    heads = ["count", *(f"p{percent:g}" for percent in measure.PERCENTILES)]
    tables: dict[str, Table] = {}
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

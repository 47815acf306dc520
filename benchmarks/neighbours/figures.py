"""The figures and tables of the good client's answers. Pure."""

from __future__ import annotations

import statistics
from typing import Any, Final

from benchmarks.neighbours.good import KINDS
from benchmarks.report import Table

PHASES: Final = ("before", "during", "after")

Row = dict[str, Any]
Found = dict[str, dict[str, list[Row]]]
"""Rows by place and attack."""


def ratios(rows: list[Row], phase: int) -> dict[str, float]:
    """By kind, the median over rounds of the p99 in that phase over the one before."""
    return {
        kind: statistics.median(row["p99_ms"][kind][phase] / row["p99_ms"][kind][0] for row in rows)
        for kind in KINDS
    }


def figures_of(found: Found, failed: list[str], limit_mb: float) -> dict[str, float]:
    figures: dict[str, float] = {}
    for place, rows_of in found.items():
        for attack, rows in rows_of.items():
            for number, phase in enumerate(PHASES[1:], 1):
                figures[f"{place}_{attack}_p99_{phase}_over_before"] = max(ratios(rows, number).values())
            cpu = [row["cpu_s"] for row in rows]
            figures[f"{place}_{attack}_api_cpu_during_over_after"] = statistics.median(
                each["during"] / each["after"] for each in cpu
            )
        rows = [row for rows in rows_of.values() for row in rows]
        figures[f"{place}_memory_peak_mb"] = max(row["rss_mb"] + row["queued_mb"] for row in rows)
        figures[f"{place}_connections"] = float(max(row["front_connections"] for row in rows))
    during = {name: value for name, value in figures.items() if name.endswith("_p99_during_over_before")}
    control = {name: value for name, value in during.items() if "_control_" in name}
    figures["p99_during_over_before"] = max(value for name, value in during.items() if name not in control)
    figures["control_p99_during_over_before"] = max(control.values())
    peak = max(figures[f"{place}_memory_peak_mb"] for place in found)
    return {
        **figures,
        "memory_limit_mb": limit_mb,
        "memory_peak_over_limit": peak / limit_mb,
        "good_failed": float(len(failed)),
    }


def tables_of(found: Found) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    for place, rows_of in found.items():
        times: list[list[object]] = [
            ["attack", "request", *(f"{phase}, p99 ms" for phase in PHASES), "during / before"]
        ]
        met: list[list[object]] = [
            [
                "attack",
                "connections in front, at the API",
                "memory, MiB",
                "in queues in front, at the API, MiB",
                "API's CPU s during, after",
                "met",
            ]
        ]
        for attack, rows in rows_of.items():
            over = ratios(rows, 1)
            for kind in KINDS:
                columns = zip(*(row["p99_ms"][kind] for row in rows), strict=True)
                cells = [f"{statistics.median(values):.1f}" for values in columns]
                times.append([attack, kind, *cells, f"{over[kind]:.2f}"])
            last = rows[-1]
            words = ", ".join(f"{name} {count}" for name, count in last["met"].items())
            most = {
                name: max(row[name] for row in rows)
                for name in rows[0]
                if name not in ("p99_ms", "p50_ms", "met", "cpu_s")
            }
            met.append(
                [
                    attack,
                    f"{most['front_connections']}, {most['connections']}",
                    f"{most['rss_mb']:.0f}",
                    f"{most['front_queued_mb']:.1f}, {most['queued_mb']:.1f}",
                    ", ".join(
                        f"{statistics.median(row['cpu_s'][phase] for row in rows):.2f}"
                        for phase in PHASES[1:]
                    ),
                    words,
                ]
            )
        tables[f"the good client, {place} (medians over rounds)"] = times
        tables[f"what the attacks met, {place}"] = met
    return tables

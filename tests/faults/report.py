"""From the rounds that were played: `benchmarks/results/chaos.json`, its page with the recovery plots, and the table of
`docs/reliability.md`."""

from __future__ import annotations

import argparse
import re
import statistics
from typing import Any, Final

from benchmarks import report
from tests.faults.catalogue import BY_NUMBER
from tests.faults.recovery import WINDOW_S, rate_at

PAGE: Final = report.ROOT / "docs" / "reliability.md"
RESULTS: Final = report.ROOT / "benchmarks" / "results"
MARKS: Final = re.compile(r"(?<=<!-- chaos:begin -->\n).*?(?=<!-- chaos:end -->)", re.DOTALL)


def write(played: list[dict[str, Any]]) -> int:
    """The report. Answers 0 if nothing was violated and every mutant was caught, else 1."""
    recoveries = {line["row"]: line for line in played if line.get("recovery")}
    rounds = [line for line in played if not line.get("recovery") and not line["mutant"]]
    mutants = {line["mutant"]: line for line in played if line.get("mutant")}
    violated = sum(bool(line["violations"]) for line in rounds)
    escaped = [name for name, line in mutants.items() if not caught(line)]
    figures: dict[str, float] = {
        "rounds": len(rounds),
        "jobs": sum(sum(line.get("outcomes", {}).values()) for line in rounds),
        "rounds_violated": violated,
        "mutants": len(mutants),
        "mutants_caught": len(mutants) - len(escaped),
    }
    figures |= {f"recovery_s_row_{row}": line["recovery_s"] for row, line in sorted(recoveries.items())}
    args = argparse.Namespace(quick=False, json=RESULTS / "chaos.json", html=RESULTS / "chaos.html")
    report.publish(
        args,
        "chaos",
        {"rows": sorted({line["row"] for line in rounds})},
        figures,
        {"rounds": played},
        _plot(recoveries),
    )
    if PAGE.exists():
        table = _table(rounds, recoveries) + _mutants(mutants)
        PAGE.write_text(MARKS.sub(lambda _: table, PAGE.read_text()))
    return 1 if violated or escaped else 0


def caught(line: dict[str, Any]) -> bool:
    """Whether the checker, and not an accident of the harness, has noticed the mutant."""
    return any(not each.startswith("harness") for each in line["violations"])


def _table(rounds: list[dict[str, Any]], recoveries: dict[int, dict[str, Any]]) -> str:
    rows = [
        "| # | fault | must hold | rounds | jobs | extra computations (jobs in flight) | violations | recovery, median |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for number in sorted({line["row"] for line in rounds}, key=lambda number: (number % 100, number)):
        row, mine = BY_NUMBER[number], [line for line in rounds if line["row"] == number]
        jobs = sum(sum(line.get("outcomes", {}).values()) for line in mine)
        extra = sum(line.get("extra_computations", 0) for line in mine)
        flying = sum(line.get("in_flight", 0) for line in mine)
        times = [line["notes"]["recovery_s"] for line in mine if "recovery_s" in line.get("notes", {})]
        recovery = f"{statistics.median(times):.1f} s" if times else ""
        violations = sum(bool(line["violations"]) for line in mine)
        rows.append(
            f"| {number % 100} | {row.title} | {' '.join(row.properties)} | {len(mine)} | {jobs} | {extra} ({flying}) | "
            f"{violations} | {recovery} |"
        )
    told = [f"row {number}: {line['recovery_s']:.1f} s" for number, line in sorted(recoveries.items())]
    under_load = (
        f"\nThroughput under steady load back to 90 % after healing: {', '.join(told)}.\n" if told else ""
    )
    return "\n".join(rows) + "\n" + under_load


def _mutants(mutants: dict[str, dict[str, Any]]) -> str:
    if not mutants:
        return ""
    rows = ["\n| mutant | row | what the checker says |", "|---|---|---|"]
    for name, line in mutants.items():
        words = line["violations"][0].splitlines()[0] if line["violations"] else "**not caught**"
        words = re.sub(r"job_[0-9a-z]{27}", "a job", words)
        rows.append(f"| `{name}` | {line['row'] % 100} | {words} |")
    return "\n".join(rows) + "\n"


def _plot(recoveries: dict[int, dict[str, Any]]) -> Any:
    """Jobs per second around the fault, a line per row."""
    if not recoveries:
        return None
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, all_axes = pyplot.subplots(len(recoveries), 1, figsize=(8, 2.6 * len(recoveries)), squeeze=False)
    for axes, (number, line) in zip(all_axes[:, 0], sorted(recoveries.items()), strict=True):
        times = line["finished"]
        ticks = [tick / 4 for tick in range(int(4 * times[0]) + 12, int(4 * times[-1]))]
        axes.plot(ticks, [rate_at(times, tick) for tick in ticks])
        axes.axvspan(0, line["healed_s"], color="tab:red", alpha=0.15, label="fault until healed")
        axes.axhline(0.9 * line["rate_before"], color="grey", ls=":", label="90 % of before")
        axes.set(
            title=f"{number}. {BY_NUMBER[number].title}", ylabel=f"jobs/s over {WINDOW_S:g} s", ylim=(0, None)
        )
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize=8)
    all_axes[-1, 0].set_xlabel("seconds since the fault")
    figure.tight_layout()
    return figure

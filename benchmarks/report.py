"""What every benchmark shares: its arguments, and a report in JSON and HTML."""

from __future__ import annotations

import argparse
import html
import io
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

Table = Sequence[Sequence[object]]
"""Rows of cells, the first row the headings."""


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The arguments that all benchmarks take."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="under a minute")
    made.add_argument("--json", type=Path, help="write the report here")
    made.add_argument("--html", type=Path, help="write the report with its plot here")
    return made


def publish(
    args: argparse.Namespace,
    benchmark: str,
    config: dict[str, Any],
    figures: dict[str, float],
    samples: dict[str, Any],
    plot: Any = None,
    tables: Mapping[str, Table] | None = None,
    summary: str = "",
) -> None:
    """Prints the report, and writes it where the arguments say. `plot` is a matplotlib figure; `tables` by title and the
    one-line `summary` enter the page too, and the summary is printed last."""
    report = {
        "benchmark": benchmark,
        "revision": _revision(),
        "machine": _machine(),
        "config": {"quick": args.quick, **config},
        "figures": {name: float(f"{value:.5g}") for name, value in figures.items()},
        **({"summary": summary} if summary else {}),
        "samples": samples,
    }
    text = json.dumps(report, indent=2)
    print(json.dumps({**report, "samples": "..."}, indent=2) if len(text) > 4000 else text)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report) + "\n")
    if args.html:
        args.html.parent.mkdir(parents=True, exist_ok=True)
        args.html.write_text(_page(report, plot, tables or {}))
    if summary:
        print(summary)


def _page(report: dict[str, Any], plot: Any, tables: Mapping[str, Table]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value:g}</td></tr>"
        for name, value in report["figures"].items()
    )
    picture = ""
    if plot is not None:
        buffer = io.StringIO()
        plot.savefig(buffer, format="svg", bbox_inches="tight")
        picture = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    more = "".join(_table(title, table) for title, table in tables.items())
    about = {key: report[key] for key in ("revision", "machine", "config")}
    return (
        f"<!doctype html><meta charset=utf-8><title>{report['benchmark']}</title>"
        "<style>body{font:16px system-ui;margin:2rem;max-width:60rem}td{padding:.2rem 1rem .2rem 0}svg{max-width:100%;height:auto}pre{overflow-x:auto}</style>"
        f"<h1>{report['benchmark']}</h1><p>{html.escape(report.get('summary', ''))}</p>"
        f"<table>{rows}</table>{picture}{more}"
        f"<pre>{html.escape(json.dumps(about, indent=2))}</pre>\n"
    )


def _table(title: str, table: Table) -> str:
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in table
    )
    return f"<h2>{html.escape(title)}</h2><table>{rows}</table>"


def _machine() -> dict[str, Any]:
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "diffusers")},
    }


def _version(package: str) -> str | None:
    """None where it is not installed: the load test needs neither."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _revision() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else "unknown"

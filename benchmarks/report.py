"""What every benchmark shares: its arguments, and a report in JSON and HTML."""

from __future__ import annotations

import argparse
import html
import io
import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


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
) -> None:
    """Prints the report, and writes it where the arguments say. `plot` is a matplotlib figure."""
    report = {
        "benchmark": benchmark,
        "revision": _revision(),
        "machine": _machine(),
        "config": {"quick": args.quick, **config},
        "figures": {name: float(f"{value:.5g}") for name, value in figures.items()},
        "samples": samples,
    }
    text = json.dumps(report, indent=2)
    print(json.dumps({**report, "samples": "..."}, indent=2) if len(text) > 4000 else text)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report) + "\n")
    if args.html:
        args.html.parent.mkdir(parents=True, exist_ok=True)
        args.html.write_text(_page(report, plot))


def _page(report: dict[str, Any], plot: Any) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value:g}</td></tr>"
        for name, value in report["figures"].items()
    )
    picture = ""
    if plot is not None:
        buffer = io.StringIO()
        plot.savefig(buffer, format="svg", bbox_inches="tight")
        picture = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    about = {key: report[key] for key in ("revision", "machine", "config")}
    return (
        f"<!doctype html><meta charset=utf-8><title>{report['benchmark']}</title>"
        "<style>body{font:16px system-ui;margin:2rem;max-width:60rem}td{padding:.2rem 1rem .2rem 0}</style>"
        f"<h1>{report['benchmark']}</h1><table>{rows}</table>{picture}"
        f"<pre>{html.escape(json.dumps(about, indent=2))}</pre>\n"
    )


def _machine() -> dict[str, Any]:
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "diffusers": version("diffusers"),
    }


def _revision() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else "unknown"

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

from benchmarks.arguments import writable

ROOT = Path(__file__).parents[1]

Table = Sequence[Sequence[object]]
"""Rows of cells, the first row the headings."""


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The arguments that all benchmarks take. `doc`, the script's own, heads the page and explains it."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.set_defaults(doc=doc or "")
    made.add_argument("--quick", action="store_true", help="under a minute")
    made.add_argument("--json", type=writable, help="write the report here")
    made.add_argument("--html", type=writable, help="write the report with its plot here")
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
        _write(args.json, json.dumps(report) + "\n")
    if args.html:
        _write(args.html, _page(report, getattr(args, "doc", ""), plot, tables or {}))
    if summary:
        print(summary)


def _write(path: Path, text: str) -> None:
    """Ends the script with 1 and one line where the disk says no: what was measured has been printed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise SystemExit(f"{path}: {error.strerror}") from None


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;padding:0 1.5rem;max-width:64rem;color:#222;background:#fff}
h1{margin:0 0 .3rem;font-size:1.6rem;line-height:1.25}h2{margin:2rem 0 .5rem;font-size:1.2rem}
.summary{font-size:1.1rem;border-left:4px solid #3367d6;padding:.4rem 1rem;background:#f3f6fd}
.about{color:#666}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.2rem 1rem .2rem 0;text-align:left;border-bottom:1px solid #eee}th{color:#666;font-weight:600}
.wide{overflow-x:auto}svg{max-width:100%;height:auto}pre{overflow-x:auto;font-size:.85rem}summary{cursor:pointer;color:#666}
"""


def _page(report: dict[str, Any], doc: str, plot: Any, tables: Mapping[str, Table]) -> str:
    """What was asked and what came out of it first, then plots, then all figures; how it was done is folded away."""
    name, _, summary = report.get("summary", "").partition(": ")
    lead, _, how = doc.strip().partition("\n")
    title = html.escape(lead.strip().rstrip(".") or report["benchmark"])
    machine = report["machine"]
    versions = ", ".join(f"{key} {machine[key]}" for key in ("python", "torch", "diffusers") if machine[key])
    about = f"{machine['cores']} cores ({machine['processor']}), {versions}; revision {report['revision']}"
    picture = ""
    if plot is not None:
        buffer = io.StringIO()
        plot.savefig(buffer, format="svg", bbox_inches="tight")
        picture = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    rows = [["figure", "value"], *([key, f"{value:g}"] for key, value in report["figures"].items())]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(report['benchmark'])}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p class=about>benchmark <b>{html.escape(report['benchmark'])}</b>"
        f"{', quick (too short to be quoted)' if report['config'].get('quick') else ''}, on {html.escape(about)}</p>"
        + (f"<p class=summary>{html.escape(summary or name)}</p>" if summary or name else "")
        + picture
        + "".join(_table(heading, table) for heading, table in tables.items())
        + _table("all figures", rows)
        + (f"<h2>how it was measured</h2><pre>{html.escape(how.strip())}</pre>" if how.strip() else "")
        + "<details><summary>configuration and machine</summary><pre>"
        + html.escape(json.dumps({key: report[key] for key in ("revision", "machine", "config")}, indent=2))
        + "</pre></details></html>\n"
    )


def _table(title: str, table: Table) -> str:
    heads, *rows = table
    head = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<h2>{html.escape(title)}</h2><div class=wide><table><tr>{head}</tr>{body}</table></div>"


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


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=ROOT, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _revision() -> str:
    """The commit; "-dirty" if anything tracked differs from it, other benchmarks' results aside."""
    commit = _git("rev-parse", "--short", "HEAD")
    if commit is None:
        return "unknown"
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results")
    return f"{commit}-dirty" if changed else commit

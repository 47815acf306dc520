"""Rounds of faults, many of them: `make chaos`.

    python -m tests.faults --rows 1-14 --rounds 50 --jobs 200

Every round is a line of `rounds.jsonl` in the folder of `--log`; what is there already is not played again, so that a campaign
may be stopped and gone on with. `--beside 2` plays on two sites at a time: most of a round is waiting. A round with violations leaves its history and all logs behind. At the end the report is
written: `benchmarks/results/chaos.json` with its plot, and the table of `docs/reliability.md`. `--report` does that alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.report import ROOT
from tests.faults.catalogue import BY_NUMBER, MUTANTS, selected
from tests.faults.history import to_json
from tests.faults.recovery import RECOVERY_ROWS, measure
from tests.faults.report import write
from tests.faults.round import Row, play
from tests.faults.rows_long import SOAK
from tests.faults.site import Site, opened

USUAL_JOBS = 200


class Campaign:
    """Plays rounds on one site after another, and writes each down at once."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._stack = ExitStack()
        self._site: Site | None = None
        log.mkdir(parents=True, exist_ok=True)
        self.lines = log / "rounds.jsonl"
        self.played = read(self.lines)

    def close(self) -> None:
        self._stack.close()
        self._site = None

    @property
    def site(self) -> Site:
        if self._site is None:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            self._site = self._stack.enter_context(opened(Path(folder)))
        return self._site

    def round(self, row: Row, seed: int, jobs: int, mutant: str = "") -> None:
        """One round, unless it has been played. The site is replaced after a violation: nothing of it is trusted any more."""
        key = {"row": row.number, "seed": seed, "jobs": jobs, "mutant": mutant}
        if any(key.items() <= line.items() for line in self.played):
            return
        began = time.monotonic()
        try:
            history, violations = play(self.site, row, seed, jobs, (mutant,) if mutant else ())
            summary = history.summary()
            told = to_json(history)
        except Exception:  # noqa: BLE001 - one broken round does not end a campaign of hours
            violations, summary, told = ["harness: " + traceback.format_exc()], {}, {}
        self._note(
            {**key, "seconds": round(time.monotonic() - began, 1), "violations": violations, **summary}
        )
        if violations:
            if not mutant:
                self._keep(f"row-{row.number}-seed-{seed}", told)
            self.close()

    def recovery(self, number: int) -> None:
        """The throughput before, during and after the fault of a row, unless it has been measured."""
        key = {"row": number, "recovery": True}
        if not any(key.items() <= line.items() for line in self.played):
            self._note({**key, **measure(self.site, number)})

    def _note(self, line: dict[str, Any]) -> None:
        self.played.append(line)
        with self.lines.open("a") as file:
            file.write(json.dumps(line) + "\n")
        shown = {name: value for name, value in line.items() if name not in ("finished", "violations")}
        print(json.dumps(shown), *line.get("violations", ())[:3], flush=True)

    def _keep(self, name: str, told: dict[str, Any]) -> None:
        kept = self._log / name
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        (kept / "history.json").write_text(json.dumps(told, indent=1))
        if self._site is not None:
            for path in self._site.folder.glob("*/output.log"):
                shutil.copy(path, kept / f"{path.parent.name}.log")


def read(lines: Path) -> list[dict[str, Any]]:
    """The rounds that have been played."""
    if not lines.exists():
        return []
    return [json.loads(line) for line in lines.read_text().splitlines()]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="1-39,44-47,101-139,146,225", help="numbers and ranges: 1-12,23")
    parser.add_argument(
        "--beside", type=int, default=1, help="sites at work at a time; each wants a core of its own"
    )
    parser.add_argument("--rounds", type=int, default=5, help="seeds of each row")
    parser.add_argument(
        "--jobs", type=int, default=USUAL_JOBS, help="jobs of a round, in rows without a number of their own"
    )
    parser.add_argument("--minutes", type=int, default=30, help="length of row 41")
    parser.add_argument(
        "--log", type=Path, default=ROOT / ".cache" / "chaos", help="folder of the rounds played"
    )
    parser.add_argument("--no-mutants", action="store_true", help="leave the mutants out")
    parser.add_argument("--no-recovery", action="store_true", help="leave the recovery plots out")
    parser.add_argument(
        "--report", action="store_true", help="write the report of what has been played, and no more"
    )
    parser.add_argument("--no-report", action="store_true", help="write no report at the end")
    args = parser.parse_args()
    # Ended as by Ctrl-C, also in the background: what has been played is kept, and nothing is left running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rows = [] if args.report else selected(args.rows)
    if rows and args.beside > 1:
        _play_beside(rows, args)
    campaign = Campaign(args.log.absolute())
    try:
        for row in rows:
            for seed in range(args.rounds):
                campaign.round(row, seed, _jobs(row, args))
        for mutant, number in {} if args.report or args.no_mutants else MUTANTS.items():
            row = BY_NUMBER[number]
            campaign.round(row, 0, min(args.jobs, row.jobs), mutant)
        for number in () if args.report or args.no_recovery else RECOVERY_ROWS:
            campaign.recovery(number)
    finally:
        campaign.close()
    if args.no_report:
        return 0
    return write(campaign.played)


def _play_beside(rows: list[Row], args: argparse.Namespace) -> None:
    """A process for every share of the rows. They write into the same file, a line at a time, so that what is left for this
    process is what needs the machine for itself: mutants, recovery, and the report."""
    shares = [rows[number :: args.beside] for number in range(args.beside)]
    command = [sys.executable, "-m", "tests.faults", "--no-mutants", "--no-recovery", "--no-report"]
    command += ["--rounds", str(args.rounds), "--jobs", str(args.jobs), "--minutes", str(args.minutes)]
    command += ["--log", str(args.log)]
    playing = [
        subprocess.Popen([*command, "--rows", ",".join(str(row.number) for row in share)])
        for share in shares
        if share
    ]
    try:
        for each in playing:
            each.wait()
    finally:
        for each in playing:
            each.terminate()
        for each in playing:
            each.wait()


def _jobs(row: Row, args: argparse.Namespace) -> int:
    if row.number == SOAK:
        return int(args.minutes)
    return int(args.jobs) if row.jobs == USUAL_JOBS else row.jobs


if __name__ == "__main__":
    sys.exit(main())

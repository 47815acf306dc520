"""One round: a seeded load, faults while it runs, and the history that the checker judges."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from tests.faults import checker
from tests.faults.history import Counts, History
from tests.faults.load import Load, follow
from tests.faults.site import Listener, Site, final

FOLLOW_S: Final = 75.0


@dataclass(frozen=True)
class Row:
    """A line of the list of faults: what is injected, and which properties must hold."""

    number: int
    title: str
    properties: str
    run: Callable[[Round], None]
    jobs: int = 200
    settings: dict[str, str] = field(default_factory=dict)
    """Settings that processes of this row need; they are restarted for it."""


class Round:
    """What a row has in hand. It must call `load`; `end` does the rest."""

    def __init__(self, site: Site, row: Row, seed: int, jobs: int | None = None) -> None:
        self.site = site
        self.row = row
        self.rng = random.Random(f"{row.number}/{seed}")
        self.jobs = jobs or row.jobs
        self.history = History(row.number, seed)
        self.loads: list[Load] = []
        self._painted_from = 0
        self._ended = False
        self._listener = Listener(site.state.port)

    def begin(self) -> None:
        """From here on all is written down. The processes must be up."""
        self.history.began = time.time()
        self.history.before = self.site.counts()
        self._painted_from = self.site.paintings.stat().st_size if self.site.paintings.exists() else 0
        self._listener.start()

    def load(self, seconds: float = 4.0, jobs: int | None = None, at: str = "api", **rest: Any) -> Load:
        """Clients at work, from now on; by default all jobs of the round. `at` names the API that they talk to."""
        load = Load(self.site.url_of(at), self.rng, jobs or self.jobs, seconds, **rest)
        self.loads.append(load)
        load.start()
        return load

    def some(self, low: float = 0.15, high: float = 0.6) -> int:
        """A seeded number of jobs, between these shares of all: when to strike."""
        return int(self.jobs * self.rng.uniform(low, high))

    def fault(self, what: str) -> None:
        self.history.faults.append((time.time(), what))

    def healed(self) -> None:
        self.history.healed = time.time()

    def hit(self, pids: Iterable[int] | None = None) -> None:
        """Count the jobs in the hands of workers with these process ids, or of all: a fault may cost each one computation."""
        marks = None if pids is None else tuple(f"-{pid}-" for pid in pids)
        for record in self.site.records(self.history.began).values():
            held = record["status"] == "running"
            if held and (marks is None or any(mark in record.get("worker", "") for mark in marks)):
                self.history.in_flight += 1

    def find(self, condition: bool, words: str) -> None:
        """A violation of the row's own, unless `condition`."""
        if not condition:
            self.history.findings.append(f"row {self.row.number}: {words}")

    def note(self, name: str, value: float) -> None:
        self.history.notes[name] = round(value, 4)

    def end(self, follow_s: float = FOLLOW_S) -> History:
        """Wait for every job, then gather what the store holds. Once: a row may call it to look at the outcome."""
        history = self.history
        if self._ended:
            return history
        self._ended = True
        for load in self.loads:
            history.submits += load.join()
        until = time.monotonic() + follow_s
        seen = follow(self.site.url, [each.job_id for each in history.accepted], until)
        while self.site.counts().live and time.monotonic() < until:
            time.sleep(0.1)
        history.terminal_events = self._listener.stop()
        history.finals = {
            job_id: final(record, seen.get(job_id, ""))
            for job_id, record in self.site.records(history.began).items()
        }
        if history.before is not None:
            history.after = self.site.counts()
        history.computations = self._painted()
        history.keys = len(set().union(*(load.seeds for load in self.loads)))
        return history

    def come_back(self, job_ids: set[str]) -> None:
        """Waits until the records of these jobs are there again. Some of their messages may be in the hands of a connection that
        is dead, and come back when the broker has noticed."""
        until = time.monotonic() + FOLLOW_S
        while job_ids - set(self.site.records(self.history.began)) and time.monotonic() < until:
            time.sleep(0.2)

    def forget_counts(self) -> None:
        """The store has been wiped: its counters begin anew."""
        self.history.before = Counts()

    def _painted(self) -> dict[int, int]:
        if not self.site.paintings.exists():
            return {}
        with self.site.paintings.open() as log:
            log.seek(self._painted_from)
            painted = Counter(int(line) for line in log if line.endswith("\n"))
        # A message of an earlier round may still be delivered: what it makes the engine do is none of this one's.
        mine = set().union(*(load.seeds for load in self.loads))
        return {seed: times for seed, times in painted.items() if seed in mine}


def play(
    site: Site, row: Row, seed: int, jobs: int | None = None, mutants: tuple[str, ...] = ()
) -> tuple[History, list[str]]:
    """A whole round of the row on a site that stands. Answers its history and the violations."""
    if site.extra != row.settings or site.mutants != mutants:
        site.end()
        site.extra, site.mutants = dict(row.settings), mutants
    site.clear()
    site.ensure()
    site.wait_empty()
    one = Round(site, row, seed, jobs)
    one.begin()
    row.run(one)
    history = one.end()
    return history, checker.check(history, row.properties)

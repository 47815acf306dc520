"""A storm: a few clients that send one request after the other until the time is up, and the table at its end."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TextIO

import httpx

from tests.faults.history import Counts
from tests.storm import generator
from tests.storm.client import play
from tests.storm.generator import Model
from tests.storm.outcome import Outcome, Tally, violations
from tests.storm.site import Use, Watch, counts, standing

CLIENTS: Final = 6
"""Enough to keep two engines busy on two cores, and few enough that no queue grows."""
TIMEOUT_S: Final = 60.0
SETTLE_S: Final = 330.0
SHOWN: Final = 20
"""Violations that the table shows; the log holds all."""


@dataclass(slots=True)
class Report:
    """What a storm came to."""

    seed: int
    seconds: float
    tally: Tally
    counts: Counts
    uses: dict[str, Use]
    found: list[str]

    def table(self) -> str:
        """For people."""
        tally, ended = self.tally, self.counts.ended
        rows: list[tuple[str, str]] = [
            ("seed", str(self.seed)),
            ("time", f"{self.seconds / 60:.1f} min"),
            ("requests", f"{tally.requests} ({_listed(tally.modes)})"),
            ("answers", _listed(tally.statuses)),
            ("refused", f"{tally.too_short} for their own short time-out"),
            ("jobs accepted", f"{self.counts.recorded} = {_listed(ended)}"),
            ("pictures looked at", f"{tally.images}, previews {tally.previews}"),
            ("source pictures", f"{sum(tally.pictures.values())} of {len(tally.pictures)} kinds"),
        ]
        for name, use in sorted(self.uses.items()):
            memory, descriptors = use.row()
            rows.append((name, f"MB {memory}, descriptors {descriptors} (first, most, last)"))
        rows.append(("violations", str(len(self.found))))
        lines = [f"{name:<20} {value}" for name, value in rows]
        return "\n".join([*lines, *(f"  {each}" for each in self.found[:SHOWN])])


def _listed(counted: Mapping[Any, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counted.items(), key=str) if count)


@contextmanager
def _client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=TIMEOUT_S, verify=False) as http:
        yield http


def storm(folder: Path, seed: int, seconds: float) -> Report:
    """Plays requests 0, 1, 2 ... of `seed` for `seconds`. `folder` keeps the log, the models, and the logs of the processes."""
    tally, lock, numbers = Tally(), threading.Lock(), itertools.count()
    folder.mkdir(parents=True, exist_ok=True)
    with standing(folder / "platform") as platform, (folder / "log.jsonl").open("w") as log:
        with _client(platform.url) as http:
            models: list[Model] = http.get("/v1/models").json()["data"]
        (folder / "models.json").write_text(json.dumps(models))
        before = counts(platform)
        begun = time.monotonic()
        with Watch(platform) as watch:

            def one_client() -> None:
                with _client(platform.url) as http:
                    while time.monotonic() - begun < seconds and not watch.given_up.is_set():
                        with lock:
                            index = next(numbers)
                        outcome = play(http, generator.asked(seed, index, models))
                        with lock:
                            tally.add(outcome)
                            _note(log, outcome)

            with ThreadPoolExecutor(CLIENTS, "storm") as pool:
                for running in [pool.submit(one_client) for _ in range(CLIENTS)]:
                    running.result()
            after = counts(platform)
            # What a client let go of, a canceled stream, may still be on its way.
            until = time.monotonic() + SETTLE_S
            while after.live and time.monotonic() < until and not watch.given_up.is_set():
                time.sleep(0.2)
                after = counts(platform)
        took_s = time.monotonic() - begun
    own = _difference(before, after)
    return Report(seed, took_s, tally, own, watch.uses, violations(tally, own, watch.deaths))


def replay(folder: Path, seed: int, index: int) -> Outcome:
    """Request `index` of the storm in `folder` once more, alone, on a fresh platform, with the models of then."""
    models: list[Model] = json.loads((folder / "models.json").read_text())
    with standing(folder / "replay") as platform, _client(platform.url) as http:
        return play(http, generator.asked(seed, index, models))


def _note(log: TextIO, outcome: Outcome) -> None:
    log.write(json.dumps(asdict(outcome)) + "\n")
    log.flush()


def _difference(before: Counts, after: Counts) -> Counts:
    """The store is the platform's own, and kept between its runs."""
    ended = {state: count - before.ended.get(state, 0) for state, count in after.ended.items()}
    return Counts(after.recorded - before.recorded, ended, after.live)

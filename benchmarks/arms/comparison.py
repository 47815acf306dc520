"""The sessions of a comparison: what is counted, weighed and saturated, on every arm in turn."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.arms import processes, sessions, trips
from benchmarks.arms.checkout import Tree
from benchmarks.arms.deployment import EMBEDDED, FAKE, SLOW, Arm, picture, serving
from benchmarks.arms.figures import ARMS, Found
from benchmarks.lib.asking import SLOW as SLOW_PROMPT
from benchmarks.lib.cores import stay_off
from benchmarks.lib.orders import orders
from benchmarks.lib.processes import family, resident_mb


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured: seconds of a session, jobs that are weighed and the seconds before that, pictures that are counted, also `alone`, and `tries` of each
    kind of exchange. `control`: this tree is started twice."""

    control: bool
    rounds: int
    fake_s: float
    embedded_s: float
    submit_s: float
    jobs: int
    settle_s: float
    pictures: int
    alone: int
    tries: int


FULL: Final = Extent(True, 6, 3.0, 5.0, 1.5, jobs=512, settle_s=12.0, pictures=15, alone=4, tries=3)
QUICK: Final = Extent(False, 1, 1.0, 2.0, 0.5, jobs=128, settle_s=1.0, pictures=5, alone=2, tries=1)


class Comparison:
    """The arms, by what each is measured as, and what was found."""

    def __init__(self, before: Tree, now: Tree, extent: Extent, folder: Path) -> None:
        self.found = Found()
        self._extent = extent
        self._arms = {name: Arm(name, now, folder / name) for name in ARMS[1:]}
        if not extent.control:
            self._arms["now_again"] = self._arms["now"]
        self._arms = {"before": Arm("before", before, folder / "before"), **self._arms}
        self._each = list(dict.fromkeys(self._arms.values()))
        self.found.weighed = {arm.name: {} for arm in self._each}

    def run(self) -> None:
        extent = self._extent
        stay_off()
        with ExitStack() as stack:
            for arm in self._each:
                stack.callback(arm.stop)
                arm.start()
            with trips.quiet(self._each) as platforms:
                for platform in platforms:
                    _say(f"{platform.arm.name}: counting ...")
                    counted = trips.count(platform, extent.pictures, extent.alone, extent.tries)
                    self.found.trips[platform.arm.name] = counted
            stack.enter_context(serving(self._each))
            for arm in self._each:
                self.found.weighed[arm.name]["api_mb"] = resident_mb(family(arm.api))
            self._saturate(FAKE, extent.fake_s)
            self._saturate(EMBEDDED, extent.embedded_s)
            self._submit()

    def _saturate(self, model: str, seconds: float) -> None:
        with serving(self._each, model):
            processes.place(self._each, "engine")
            for arm in self._each:
                weight = resident_mb(family(arm.worker.process))
                self.found.weighed[arm.name][f"worker_mb_{model}"] = weight
            if model == FAKE:
                self._weigh_jobs("redis_bytes_finished", "succeeded", FAKE)
            for arm in self._each:
                sessions.draw(arm, model, seconds / 2)
            samples = self.found.drawn[model] = {name: [] for name in ARMS}
            for name in self._turns(model):
                samples[name].append(sessions.draw(self._arms[name], model, seconds))

    def _submit(self) -> None:
        with serving(self._each, SLOW):
            processes.place(self._each, "api")
            self._weigh_jobs("redis_bytes_queued", "queued", SLOW, SLOW_PROMPT)
            self.found.submits = {name: [] for name in ARMS}
            for name in self._turns("submits"):
                rate = sessions.submit_rate(self._arms[name], self._extent.submit_s)
                self.found.submits[name].append(rate)

    def _weigh_jobs(self, figure: str, status: str, *what: str) -> None:
        extent = self._extent
        found = sessions.redis_bytes(
            self._each, extent.jobs, partial(picture, *what), status, extent.settle_s
        )
        for name, value in found.items():
            self.found.weighed[name][figure] = value

    def _turns(self, what: str) -> Iterator[str]:
        for order in orders(ARMS, self._extent.rounds):
            _say(f"{what}: {', '.join(order)} ...")
            yield from order


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

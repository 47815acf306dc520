"""What one picture costs in round trips, commands and frames, counted on a platform that does nothing else.

Commands, exchanges and frames are counted over cold pictures, one at a time. The lower quartile is taken, for the platform's
housekeeping only adds, and so does what an API process looks up once a second. Pictures that come *alone*, after a pause, need that
too; of theirs the least is taken.

An exchange is *awaited* if the picture comes later when it is slowed. So each kind of exchange in turn is held back, and what
that adds to the client's answer or to the message's acknowledgement, whichever is more, tells how many of the kind stand in
the picture's way. What runs beside it adds nothing and is not counted. A busy machine only adds time, so the quickest
of several pictures is taken.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
from redis import Redis

from benchmarks.arms.deployment import FAKE, Arm, body_of, picture, serving
from benchmarks.arms.proxy import Passed, Record, proxying
from benchmarks.arms.wire import ACK, METHOD

SLOWED_S: Final = 0.1
ACKED_S: Final = 5.0
WARM_UP: Final = 8
SCRIPTS: Final = ("eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro")
ALONE_S: Final = 1.5
"""A pause in which an API process forgets what it has looked up."""
SETTLE_S: Final = 0.1
"""After an acknowledgement, for what is done beside it."""
PAUSE_S: Final = 0.2
"""After that, uncounted: so long that the next picture's wait is predicted from a fresh count of the jobs that wait."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one cold picture: seconds from the request to its answer, and to its message's acknowledgement; and what was sent for it, by
    kind of exchange too."""

    answered_s: float
    acked_s: float
    commands: int
    scripts: int
    exchanges: int
    frames: int
    kinds: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Trips:
    """Costs of one cold picture, one after another and alone, and the `awaited` trips by kind of exchange."""

    usual: Cost
    alone: Cost
    awaited: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.awaited.values())


class Quiet:
    """A platform behind proxies, used by one request at a time."""

    def __init__(self, arm: Arm, record: Record) -> None:
        self.arm = arm
        self.record = record
        self.client = httpx.Client(base_url=arm.platform.url, timeout=60)
        self.redis: Redis = Redis.from_url(arm.redis.url)

    def close(self) -> None:
        self.client.close()
        self.redis.close()

    def post(self, request: dict[str, Any], **headers: str) -> dict[str, Any]:
        return body_of(self.client.post("/v1/jobs", json=request, headers=headers))

    def cold(self) -> Cost:
        """One picture from the request to the end of all that it causes. Raises `RuntimeError` where it fails."""
        commands, scripts = self._commands()
        frames, exchanges = len(self.record.frames), len(self.record.exchanges)
        begun = time.perf_counter()
        job = self.post(picture(FAKE), Prefer="wait=30")
        answered = time.perf_counter()
        if (job["status"], job["cache"]) != ("succeeded", "miss"):
            raise RuntimeError(f"A cold picture was {job['status']}, {job['cache']}.")
        acked = self._acked(frames)
        time.sleep(SETTLE_S)
        kinds = Counter(each.kind for each in self.record.exchanges[exchanges:])
        frames = len(self.record.frames) - frames
        after = self._commands()
        time.sleep(PAUSE_S)
        return Cost(
            answered - begun,
            acked - begun,
            after[0] - commands,
            after[1] - scripts,
            kinds.total(),
            frames,
            kinds,
        )

    def _acked(self, seen: int) -> float:
        """When the worker acknowledged a message among the frames from `seen` on."""
        until = time.perf_counter() + ACKED_S
        while time.perf_counter() < until:
            for each in self.record.frames[seen:]:
                if is_ack(each):
                    return each.at
            time.sleep(0.002)
        raise RuntimeError("A picture's message was not acknowledged.")

    def _commands(self) -> tuple[int, int]:
        """(commands, scripts) that Redis has run so far, those of scripts among the commands."""
        stats = self.redis.info("commandstats")
        own = ("cmdstat_info", "cmdstat_monitor")
        calls = {name: each["calls"] for name, each in stats.items() if name not in own}
        return sum(calls.values()), sum(calls.get(f"cmdstat_{name}", 0) for name in SCRIPTS)


def is_ack(passed: Passed) -> bool:
    return (
        passed.owner == "worker" and passed.out and (passed.frame.kind, passed.frame.method) == (METHOD, ACK)
    )


@contextmanager
def quiet(arms: Sequence[Arm]) -> Iterator[list[Quiet]]:
    """Each arm's API and a worker with the stand-in engine behind proxies, warmed up."""
    with ExitStack() as stack:
        proxies = [stack.enter_context(proxying()) for _ in arms]
        stack.enter_context(serving(arms, None, proxies))
        stack.enter_context(serving(arms, FAKE, proxies))
        platforms = [Quiet(arm, between.record) for arm, between in zip(arms, proxies, strict=True)]
        for platform in platforms:
            stack.callback(platform.close)
            for _ in range(WARM_UP):
                platform.cold()
        yield platforms


def count(platform: Quiet, pictures: int, alone: int, tries: int) -> Trips:
    """Counts over `pictures` and over so many `alone`; then slows every kind that is usual, `tries` times each."""
    usual = usual_of([platform.cold() for _ in range(pictures)])
    lone = []
    for _ in range(alone):
        time.sleep(ALONE_S)
        lone.append(platform.cold())
    awaited = {kind: _awaited(platform, kind, usual, tries) for kind in usual.kinds}
    return Trips(
        usual,
        min(lone, key=lambda cost: cost.commands),
        {kind: found for kind, found in awaited.items() if found},
    )


def usual_of(costs: Sequence[Cost]) -> Cost:
    """The quickest times, the lower quartiles of all counts, and the kinds that most have."""
    kinds = {
        kind: int(statistics.median_low(each.kinds.get(kind, 0) for each in costs)) for kind in _kinds(costs)
    }
    return Cost(
        min(each.answered_s for each in costs),
        min(each.acked_s for each in costs),
        _quartile(each.commands for each in costs),
        _quartile(each.scripts for each in costs),
        _quartile(each.exchanges for each in costs),
        _quartile(each.frames for each in costs),
        {kind: times for kind, times in kinds.items() if times},
    )


def _quartile(values: Iterable[int]) -> int:
    """The lower one, a value that was seen."""
    ordered = sorted(values)
    return ordered[len(ordered) // 4]


def _kinds(costs: Sequence[Cost]) -> list[str]:
    """In the order in which they were first seen."""
    return list(dict.fromkeys(kind for each in costs for kind in each.kinds))


def _awaited(platform: Quiet, kind: str, usual: Cost, tries: int) -> int:
    platform.record.slowed, platform.record.slowed_s = kind, SLOWED_S
    try:
        slowed = usual_of([platform.cold() for _ in range(tries)])
    finally:
        platform.record.slowed = ""
    return min(usual.kinds[kind], trips_of(slowed, usual))


def trips_of(slowed: Cost, usual: Cost) -> int:
    """How many exchanges, each slowed by `SLOWED_S`, a picture has waited for."""
    later_s = max(slowed.answered_s - usual.answered_s, slowed.acked_s - usual.acked_s)
    return max(0, round(later_s / SLOWED_S))

"""What Redis is told for one cold picture, one hit and one joined request: its MONITOR, with whose trip each command belongs to."""

from __future__ import annotations

import itertools
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.arms import trips
from benchmarks.arms.checkout import Tree
from benchmarks.arms.deployment import FAKE, Arm, picture
from benchmarks.arms.proxy import Exchange
from benchmarks.arms.trips import Quiet

IDLE_S: Final = 8.0
PICTURES: Final = 20
ALONE: Final = 1
TRIES: Final = 4
LEADER_S: Final = 3.0
"""How long a leader is drawn: long enough that a busy machine joins it in time."""
SETTLED_S: Final = 0.03
DRAINED_S: Final = 0.1
LONGEST: Final = 44
"""Characters of an argument that are shown."""
WIDTH: Final = 160
_LINE: Final = re.compile(r"\+?(\d+\.\d+) \[\d+ (?:\S*:(\d+)|lua)\] (.*)")
_ARGUMENT: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_HASH: Final = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass(frozen=True, slots=True)
class Line:
    """A command as MONITOR shows it: when (Unix seconds), from which port (0: out of a script), and its arguments."""

    at: float
    port: int
    arguments: list[str]


@dataclass(slots=True)
class Trip:
    """An exchange, and what Redis ran for it."""

    exchange: Exchange
    lines: list[Line] = field(default_factory=list)


def lines_of(text: str) -> list[Line]:
    """The commands of MONITOR's answer, in order; what is none is left out."""
    found = (_LINE.fullmatch(line.strip()) for line in text.splitlines())
    return [Line(float(each[1]), int(each[2] or 0), _ARGUMENT.findall(each[3])) for each in found if each]


def trips_of(lines: Iterable[Line], exchanges: Iterable[Exchange]) -> list[Trip]:
    """Puts each command to the exchange that it came in. A connection's exchanges come one after another, and what a script runs
    follows its call; whoever has no exchange (this script, say) is left out."""
    waiting: dict[int, deque[Trip]] = {}
    for exchange in exchanges:
        waiting.setdefault(exchange.port, deque()).append(Trip(exchange))
    left = {port: len(queue[0].exchange.commands) for port, queue in waiting.items()}
    found: list[Trip] = []
    current: Trip | None = None
    for line in lines:
        if line.port:
            queue = waiting.get(line.port)
            current = queue[0] if queue else None
            if queue and current is not None:
                if not current.lines:
                    found.append(current)
                left[line.port] -= 1
                if not left[line.port]:
                    queue.popleft()
                    left[line.port] = len(queue[0].exchange.commands) if queue else 0
        if current is not None:
            current.lines.append(line)
    return found


def names_of(scripts: Mapping[str, str], folder: Path) -> dict[str, str]:
    """By SHA-1: the name of the file in `folder` that the script ends with or holds; else its first comment that the others do not
    begin with; else nothing."""
    files = [(path.stem, path.read_text(encoding="utf-8").strip()) for path in folder.glob("*/**/*.lua")]
    shared = _shared(list(scripts.values()))
    names = {}
    for digest, text in scripts.items():
        # The longest first: what is put before all of them is in each.
        holds = [
            name
            for name, body in sorted(files, key=lambda each: -len(each[1]))
            if body and text.strip().endswith(body)
        ]
        comment = re.search(r"^-- *(.+)", text[shared:], re.MULTILINE)
        if holds or comment:
            names[digest] = holds[0] if holds else comment[1][:LONGEST] if comment else ""
    return names


def _shared(texts: list[str]) -> int:
    """Characters with which all begin alike; 0 where there is one alone."""
    columns = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False))
    return sum(1 for _ in columns) if len(texts) > 1 else 0


def report(tree: Tree, folder: Path) -> str:
    """The three, as text. Starts and ends a platform of its own."""
    arm = Arm("now", tree, folder)
    try:
        arm.start()
        with trips.quiet([arm]) as [platform]:
            seen = len(platform.record.exchanges)
            time.sleep(IDLE_S)
            idle = {each.kind for each in platform.record.exchanges[seen:]}
            awaited = set(trips.count(platform, PICTURES, ALONE, TRIES).awaited)
            return "\n\n".join(_page_of(scene, platform, idle, awaited) for scene in _scenes(platform))
    finally:
        arm.stop()


@dataclass(frozen=True, slots=True)
class Scene:
    """A request to be watched. `prepare` makes the platform ready for it, and answers the job's leader where it is to have one."""

    title: str
    prepare: Callable[[], str]
    act: Callable[[], dict[str, Any]]


def _scenes(platform: Quiet) -> list[Scene]:
    new, old, shared = picture(FAKE), picture(FAKE), picture(FAKE, f"slow={LEADER_S}")

    def warm() -> str:
        # What an API process looks up once a second is known then.
        platform.cold()
        return ""

    def drawn() -> str:
        # Twice: the first hit tells Redis its script.
        for _ in range(2):
            platform.post(old, Prefer="wait=30")
        return ""

    def being_drawn() -> str:
        seen = len(platform.record.exchanges)
        leader: str = platform.post(shared)["id"]
        until = time.monotonic() + LEADER_S
        while time.monotonic() < until and not any(
            each.owner == "worker" and _bare(leader).encode() in b" ".join(map(b" ".join, each.commands))
            for each in platform.record.exchanges[seen:]
        ):
            time.sleep(0.002)
        time.sleep(SETTLED_S)
        return leader

    def waited(request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
        return lambda: platform.post(request, Prefer="wait=30")

    return [
        Scene("one cold picture", warm, waited(new)),
        Scene("one hit", drawn, waited(old)),
        Scene("one joined request, until its leader has ended", being_drawn, waited(shared)),
    ]


def _page_of(scene: Scene, platform: Quiet, idle: Collection[str], awaited: Collection[str]) -> str:
    leader = scene.prepare()
    job, lines, exchanges = _watched(platform, scene.act)
    ids = {_bare(job["id"]): "<job>", **({_bare(leader): "<leader>"} if leader else {})}
    road = [
        each
        for each in trips_of(lines, exchanges)
        if each.exchange.kind not in idle or each.exchange.kind in awaited or _names_one(each, ids)
    ]
    names = names_of(platform.record.scripts, platform.arm.tree.folder)
    return page(scene.title, road, ids, names, awaited if job["cache"] == "miss" else None)


def _watched(
    platform: Quiet, act: Callable[[], dict[str, Any]]
) -> tuple[dict[str, Any], list[Line], list[Exchange]]:
    """(the job that `act` answers, what Redis was told meanwhile and shortly after, the exchanges)."""
    with socket.create_connection(("127.0.0.1", platform.arm.redis.port)) as connection:
        connection.sendall(b"MONITOR\r\n")
        connection.recv(5)
        seen = len(platform.record.exchanges)
        job = act()
        time.sleep(2 * trips.SETTLE_S)
        exchanges = platform.record.exchanges[seen:]
        connection.settimeout(DRAINED_S)
        data = b""
        with suppress(TimeoutError):
            while chunk := connection.recv(1 << 16):
                data += chunk
    return job, lines_of(data.decode(errors="backslashreplace")), exchanges


def _bare(job_id: str) -> str:
    return job_id.rpartition("_")[2]


def _names_one(trip: Trip, ids: Collection[str]) -> bool:
    return any(each in argument for line in trip.lines for argument in line.arguments for each in ids)


def page(
    title: str,
    road: list[Trip],
    ids: Mapping[str, str],
    names: Mapping[str, str],
    awaited: Collection[str] | None,
) -> str:
    """The trips as lines, with words instead of `ids` and of the hashes of scripts. `awaited`: the kinds that are, where that was
    measured; all others are marked."""
    begun = road[0].lines[0].at if road else 0.0
    commands = sum(len(each.lines) for each in road)
    rows = [f"{title}: trips {len(road)}, commands {commands}", "", "    ms  trip  from    command"]
    numbers = itertools.count(1)
    marked = False
    for trip in road:
        beside = awaited is not None and trip.exchange.kind not in awaited
        marked |= beside
        number = "-" if beside else str(next(numbers))
        for place, line in enumerate(trip.lines):
            head = f"{1000 * (line.at - begun):6.1f}  {number:>4}  {trip.exchange.owner:<6}"
            if place:
                head = f"{'':14}{'' if line.port else 'script':<6}"
            rows.append(f"{head}  {_shown(line, ids, names)}"[:WIDTH].rstrip())
    if marked:
        rows += ["", "-: the picture does not wait for it"]
    return "\n".join(rows)


def _shown(line: Line, ids: Mapping[str, str], names: Mapping[str, str]) -> str:
    name, *rest = line.arguments
    if name.upper() == "EVALSHA":
        rest = [names.get(rest[0], rest[0][:8]), *rest[2:]]
    return " ".join([name.upper(), *(_short(each, ids) for each in rest)])


def _short(argument: str, ids: Mapping[str, str]) -> str:
    text = _HASH.sub("<hash>", argument.replace('\\"', '"'))
    for bare, word in ids.items():
        text = text.replace(f"job_{bare}", word).replace(bare, word)
    if not text:
        return '""'
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 12]}...({len(argument)})"

"""`python -m benchmarks.neighbours.attack`: one attack in a process of its own, until its standard input ends.

The first line of its input says which, as JSON. It tells `ready` on a line once the attack stands, and at its end what it met, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import threading
from contextlib import suppress
from typing import Any

from benchmarks.neighbours.crowd import Crowd
from benchmarks.neighbours.greedy import Greedy


def raise_open_files() -> int:
    """As many open files as this process may have, which is the answer."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def ready() -> None:
    print("ready", flush=True)


def connect(port: int, kinds: dict[str, int], addresses: int) -> dict[str, int]:
    """So many clients of each kind."""
    ended = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    crowd = Crowd(port, [kind for kind, count in kinds.items() for _ in range(count)], addresses)
    crowd.run(ended.is_set, ready)
    return crowd.counts


async def take(
    port: int,
    key: str,
    owner_key: str,
    streams: int = 0,
    reads_per_s: float = 0.0,
    submits_per_s: float = 0.0,
) -> dict[str, int]:
    """A greedy tenant that asks for so much."""
    greedy = Greedy(port, key, owner_key)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    running = asyncio.create_task(greedy.run(streams, reads_per_s, submits_per_s, ready))
    listening = asyncio.create_task(ended.wait())
    await asyncio.wait({running, listening}, return_when=asyncio.FIRST_COMPLETED)
    for task in (running, listening):
        task.cancel()
    with suppress(asyncio.CancelledError):
        await running
    return dict(sorted(greedy.counts.items()))


def main() -> int:
    given: dict[str, Any] = json.loads(sys.stdin.readline())
    raise_open_files()
    match given.pop("what"):
        case "crowd":
            counts = connect(**given)
        case "greedy":
            counts = asyncio.run(take(**given))
        case _:
            ready()
            sys.stdin.read()
            counts = {}
    print(json.dumps(counts), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The list of faults, continued: the state Redis reaches its `maxmemory`."""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

from tests.faults.round import Round, Row

ROOM_BYTES: Final = 64 * 1024
"""What is left when the limit is set: a part of the load fits."""
WAIT_S: Final = 30.0


def at_maxmemory(one: Round) -> None:
    """The limit is set just above what is used, while jobs wait and run. What was accepted ends meanwhile, what comes is refused."""
    site = one.site
    load = one.load(seconds=6.0)
    load.after(one.some(0.2, 0.4))
    with site.control as client:
        limit = int(client.info("memory")["used_memory"]) + ROOM_BYTES
        client.config_set("maxmemory", limit)
        one.fault("maxmemory")
        try:
            load.join()
            # Full for certain, whatever the load has left: by a key that is none of ours.
            client.config_set("maxmemory", 1)
            one.load(seconds=1.0, jobs=max(10, one.jobs // 4), repeats=False).join()
            until = time.monotonic() + WAIT_S
            while site.counts().live and time.monotonic() < until:
                time.sleep(0.1)
            one.find(not site.counts().live, "accepted jobs do not end at maxmemory")
        finally:
            client.config_set("maxmemory", 0)
    one.healed()
    codes = Counter(each.code for each in load.submits + one.loads[-1].submits if each.outcome == "refused")
    one.find(codes["store_full"] > 0, "nobody was refused")
    one.find(set(codes) <= {"store_full"}, f"refused with {dict(codes)}")
    lost = sum(each.outcome == "unknown" for each in load.submits)
    one.find(not lost, f"{lost} without an answer")
    one.load(seconds=1.0, jobs=max(10, one.jobs // 4))
    one.end()
    ended = Counter(each.status for each in one.history.finals.values())
    one.find(set(ended) <= {"succeeded"}, f"they ended {dict(ended)}")


FULL_ROWS: Final = (Row(49, "maxmemory of the state Redis is reached", "ALDTR", at_maxmemory, jobs=120),)

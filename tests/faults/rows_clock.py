"""The list of faults, continued: the clock of Redis is set while everything runs. It needs libfaketime (Debian's `faketime`)."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Final

from backends.redis_client import connect
from cli.services.process import ServiceError
from cli.services.redis import RedisServer
from contracts.tenancy import Account, Charge, Limits
from store.quotas import RedisQuotaLedger
from tests.faults.checker import SWEEP_S
from tests.faults.round import Round, Row
from tests.faults.site import SETTINGS, Site

HOUR_S: Final = 3600
LIMITS: Final = Limits(requests_per_minute=60, burst=3)
TTL_S: Final = float(SETTINGS["DARKROOM_JOB_TTL_S"])
LEASE_S: Final = float(SETTINGS["DARKROOM_LEASE_S"])


class SettableRedis(RedisServer):
    """A server whose clock is set by `set_clock`, and only its own; the monotonic one runs on."""

    def __init__(self, folder: Path, port: int) -> None:
        found = sorted(Path("/usr/lib").glob("**/faketime/libfaketime.so.1"))
        if not found:
            raise ServiceError("There is no libfaketime: on Debian and Ubuntu install faketime.")
        self._offset = folder.absolute() / "offset"
        preloaded = {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        super().__init__(folder, port, environ={**os.environ, **preloaded})
        self.set_clock(0)

    def set_clock(self, off_s: int) -> None:
        """By so many seconds away from the machine's."""
        self._offset.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._offset.with_suffix(".new")
        fresh.write_text(f"{off_s:+d}")
        fresh.rename(self._offset)


async def _admit(site: Site, times: int = 1) -> Account:
    """The last of so many requests of one key."""
    client = connect(site.state.url, 5.0)
    ledger = RedisQuotaLedger(client, TTL_S, 5.0)
    for number in range(times):
        account = await ledger.admit(
            "dk_00000000", LIMITS, Charge(f"{time.monotonic_ns()}-{number}", 1, True, False)
        )
    await client.aclose()
    return account


def clock_set(one: Round) -> None:
    """Back or forward by an hour, while a worker is killed. All jobs succeed, and no rate limit and no lease lasts the hour."""
    site, usual = one.site, one.site.state
    off_s = one.rng.choice((HOUR_S, -HOUR_S))
    site.end()
    usual.stop()
    server = site.state = SettableRedis(site.folder / f"settable-{one.history.seed}", usual.port)
    try:
        server.start()
        site.ensure()
        one.history.before = site.counts()
        one.history.began -= 2 * HOUR_S  # by a clock set back, jobs were made before they were asked for
        load = one.load(seconds=8.0)
        load.after(one.some(0.2, 0.5))
        account = asyncio.run(_admit(site, LIMITS.burst_size + 1))
        one.find(account.refused == "requests_per_minute", "the key is within its rate")
        one.hit()
        one.fault(f"clock of Redis set by {off_s:+d} s, a worker killed")
        server.set_clock(off_s)
        site.kill("worker-2")
        account = asyncio.run(_admit(site))
        one.find(account.retry_after_s <= 1.001, f"locked out for {account.retry_after_s:.0f} s")
        site.ensure()
        one.healed()
        load.join()
        submitted = time.monotonic()
        one.load(seconds=2.0, jobs=max(1, one.jobs // 4))
        one.end()
        took_s = time.monotonic() - submitted
        one.note("until_all_ended_s", took_s)
        # By a clock that nobody has set. A killed worker's jobs wait for a lease that begins anew, and a whole one more.
        one.find(took_s < 3 * LEASE_S + 10.0 + SWEEP_S, f"the last job ended after {took_s:.1f} s")
        early = [each for each in one.history.finals.values() if each.status == "expired"]
        one.find(not early, f"{len(early)} jobs expired early")
        one.history.began += 2 * HOUR_S
    finally:
        site.end()
        server.stop()
        site.state = usual
        usual.start()


CLOCK_ROWS: Final = (Row(44, "the clock of Redis is set by an hour", "ALD", clock_set, jobs=60),)

"""The list of faults, continued: pictures that misbehave, among others that do not."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import httpx
import psutil

from tests.faults.load import Load, client
from tests.faults.round import Round, Row
from tests.faults.site import Site

BATCH: Final = 8
WIDE: Final = {"DARKROOM_MAX_BATCH": str(BATCH)}
HANG_S: Final = 5.0
HANG: Final = {**WIDE, "DARKROOM_BATCH_TIMEOUT_S": f"{HANG_S:g}"}
BLOCKED_S: Final = 3.0
"""A first picture holds the only worker for this long: what comes meanwhile is one batch."""
TAKEN_S: Final = 1.0
"""A worker has what was asked for after this at the latest."""
KILLS: Final = 4
"""Engines that one round kills."""
BACK_S: Final = 20.0
"""A worker has another engine after this at the latest."""
LEFT_S: Final = 5.0
"""A process whose device is lost must be gone within this."""


@dataclass(frozen=True)
class _Seen:
    """What the workers of a round have logged."""

    events: list[dict[str, Any]]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each.get("event") == event]


def logged(site: Site, name: str, since: int) -> _Seen:
    """The log of a process from byte `since` on."""
    with (site.folder / name / "output.log").open() as file:
        file.seek(since)
        lines = file.read().splitlines()
    return _Seen([json.loads(line) for line in lines if line.startswith("{")])


def log_size(site: Site, name: str) -> int:
    return (site.folder / name / "output.log").stat().st_size


def _taken(one: Round, load: Load) -> None:
    """Returns once a worker has the load's only job. One that nobody takes is found by what follows: no eight wait together."""
    (submit,) = load.join()
    until = time.monotonic() + BLOCKED_S
    with client(one.site.url) as http:
        while time.monotonic() < until:
            if http.get(f"/v1/jobs/{submit.job_id}").json()["status"] != "queued":
                return
            time.sleep(0.02)


def _one_batch(one: Round, prompt: str, expected: set[str], failure: str) -> _Seen:
    """Seven good pictures and one of `prompt` in a batch of eight on one worker. The good ones must succeed, the other fail
    with a code of `expected`, within three attempts; `failure`: what the batcher must have said of the batch of eight."""
    site, history = one.site, one.history
    for name in ("worker-1", "worker-2"):  # an earlier round's worker remembers what did not fit
        site.stop(name)
    since = log_size(site, "worker-1")
    site.start("worker-1")
    site.ready(1)
    history.allowed = frozenset({"succeeded", "failed"})
    first = one.load(seconds=0.0, jobs=1, prompt=f"slow={BLOCKED_S}")
    _taken(one, first)  # then all eight wait together
    one.fault(prompt)
    good = one.load(seconds=0.0, jobs=BATCH - 1, prompt="slow=0.2", repeats=False)
    bad = one.load(seconds=0.0, jobs=1, prompt=f"slow=0.2 {prompt}")
    one.healed()
    one.end()
    history.in_flight += BATCH  # those beside it may be computed again
    for submit in (*first.submits, *good.submits):
        final = history.finals.get(submit.job_id)
        if final is not None:
            one.find(final.status == "succeeded", f"a good one ended {final.status} {final.code}")
    for submit in bad.submits:
        final = history.finals.get(submit.job_id)
        if final is not None:
            told = f"{final.status} {final.code}"
            one.find(final.status == "failed" and final.code in expected, f"the bad one ended {told}")
            one.find(final.attempt <= 3, f"the bad one took {final.attempt} attempts")
    seen = logged(site, "worker-1", since)
    if failure:
        sizes = [each["images"] for each in seen.of("batch_failed") if each["failure"] == failure]
        one.find(bool(sizes), "no batch failed")
        one.note("largest_failed_batch", max(sizes, default=0))
        asked = max(each.at + each.took_s for load in (good, bad) for each in load.submits)
        blocked = history.finals.get(first.submits[0].job_id)
        # On a machine that was too slow to ask for all in time, the size of the batch says nothing.
        gathered = blocked is not None and asked + TAKEN_S < blocked.finished_at
        one.note("gathered", gathered)
        one.find(not gathered or max(sizes, default=0) == BATCH, f"no batch of {BATCH} failed: {sizes}")
    return seen


def prompt_that_kills(one: Round) -> None:
    _one_batch(one, "fault:crash", {"engine_crashed", "attempts_exhausted"}, "crash")


def exception_for_one(one: Round) -> None:
    seen = _one_batch(one, "fault:raise", {"engine_fault"}, "fault")
    one.find(not seen.of("engine_restarted"), "the engine was restarted for an exception")


def out_of_memory_in_batches(one: Round) -> None:
    """Batches of four do not fit, of two and three do: found once on each worker, and remembered."""
    since = {name: log_size(one.site, name) for name in ("worker-1", "worker-2")}
    for name in since:
        one.site.stop(name)  # they might remember it already
    one.site.ensure()
    one.fault("fault:oom>=4")
    one.load(seconds=0.5, prompt="slow=0.1 fault:oom>=4", repeats=False)
    one.healed()
    one.end()
    for name, at in since.items():
        failed = logged(one.site, name, at).of("batch_failed")
        one.find(len(failed) <= 1, f"{name} tried too large a batch {len(failed)} times")
        one.note(f"tried_{name}", len(failed))
    one.find(any(one.history.notes[f"tried_{name}"] for name in since), "nobody tried a batch of four")


def out_of_memory_alone(one: Round) -> None:
    _one_batch(one, "fault:oom>=1", {"out_of_memory"}, "out_of_memory")


def device_lost(one: Round) -> None:
    """An error after which the device never works again in that process."""
    seen = _one_batch(one, "fault:sticky", {"engine_crashed"}, "crash")
    one.find(bool(seen.of("engine_restarted")), "the engine was not restarted")
    lost = [_stamp(each) for each in seen.of("device_lost")]
    failed = [_stamp(each) for each in seen.of("batch_failed")]
    one.find(bool(lost), "no device was lost")
    if lost and failed:
        one.note("left_after_s", max(0.0, failed[0] - lost[0]))
        one.find(failed[0] - lost[0] < LEFT_S, f"it left after {failed[0] - lost[0]:.1f} s")


def _stamp(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["timestamp"]).timestamp()


def not_a_number(one: Round) -> None:
    """Asked for a second time it is computed, and fails, a second time: it is in no cache."""
    _one_batch(one, "fault:nan", {"invalid_output"}, "")
    bad = one.loads[-1].submits[0]
    with httpx.Client(base_url=one.site.url, verify=False, timeout=30.0) as http:
        body = {"prompt": "slow=0.2 fault:nan", "seed": bad.seed}
        again = http.post("/v1/jobs", json=body, headers={"Prefer": "wait=20"}).json()
    one.find(again["cache"] == "miss", f"asked again, it was a {again['cache']}")
    one.find(again["status"] == "failed", f"asked again, it is {again['status']}")


def engine_killed(one: Round) -> None:
    """While one batch runs and the next is at hand, again and again. Nobody pays for it with an attempt, and none of those at hand is
    computed twice."""
    workers = ("worker-1", "worker-2")
    since = {name: log_size(one.site, name) for name in workers}
    load = one.load(seconds=6.0, prompt="slow=0.1", repeats=False)
    load.after(one.some(0.1, 0.2))
    for _ in range(KILLS):
        name = one.rng.choice(workers)
        engine = _engine(one.site, name)
        one.fault(f"kill -9 the engine of {name}")
        one.history.in_flight += BATCH  # those of the batch that ran are computed again
        os.kill(engine, signal.SIGKILL)
        until = time.monotonic() + BACK_S
        while _engine(one.site, name) == engine and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(one.rng.uniform(0.1, 0.5))
    one.healed()
    one.end()
    crashes = sum(
        each["failure"] == "crash"
        for name in workers
        for each in logged(one.site, name, since[name]).of("batch_failed")
    )
    one.note("crashed_batches", crashes)
    one.find(crashes <= KILLS, f"{crashes} batches were held to have crashed, for {KILLS} engines")
    for submit in load.submits:
        final = one.history.finals.get(submit.job_id)
        if final is not None:
            one.find(final.status == "succeeded", f"{submit.job_id} ended {final.status} {final.code}")


def _engine(site: Site, name: str) -> int:
    """The process id of the worker's engine, waited for."""
    until = time.monotonic() + BACK_S
    while time.monotonic() < until:
        for child in psutil.Process(site.processes[name].pid).children(recursive=True):
            try:
                if "worker.engine" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                    return child.pid
            except psutil.Error:
                continue
        time.sleep(0.05)
    raise TimeoutError(f"{name} has no engine")


def engine_hangs(one: Round) -> None:
    _one_batch(one, "fault:hang", {"engine_crashed", "attempts_exhausted"}, "crash")
    bad = one.history.finals.get(one.loads[-1].submits[0].job_id)
    if bad is not None:
        # With the others, then alone: two hangs, each ended at its limit, and two starts of the engine.
        took = bad.finished_at - bad.created_at
        one.note("ended_after_s", took)
        one.find(took >= 2 * HANG_S, f"it was ended after {took:.1f} s")


ENGINE_ROWS: Final = (
    Row(17, "a prompt that kills the process, in a batch of 8", "ALDXT", prompt_that_kills, BATCH, WIDE),
    Row(18, "an exception for one of eight", "ALDXT", exception_for_one, BATCH, WIDE),
    Row(19, "out of memory at batches of 4 and more", "ALDT", out_of_memory_in_batches, jobs=40),
    Row(20, "out of memory at 1", "ALDXT", out_of_memory_alone, BATCH, WIDE),
    Row(120, "a device error that stays", "ALDXT", device_lost, BATCH, WIDE),
    Row(21, "NaN latents", "ALDXT", not_a_number, BATCH, WIDE),
    Row(122, "kill -9 the engine, again and again, with the next batch handed over", "ALDXT", engine_killed),
    Row(22, "the engine hangs", "ALDXT", engine_hangs, BATCH, HANG),
)

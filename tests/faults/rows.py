"""The list of faults, row by row: processes and servers that die, hang and come back."""

from __future__ import annotations

import signal
import time
from typing import Final

from tests.faults.load import Load, Probe
from tests.faults.patched import PATCHES
from tests.faults.round import Round, Row
from tests.faults.site import SETTINGS

LEASE_S: Final = float(SETTINGS["DARKROOM_LEASE_S"])
PUBLISH_S: Final = float(SETTINGS["DARKROOM_PUBLISH_TIMEOUT_S"])
CRASHES_OF_API: Final = (
    "die_before_publish",
    "die_before_confirm",
    "die_before_answer",
    "die_before_clearing",
)


def gone(one: Round, name: str, timeout_s: float = 30.0) -> None:
    """Returns once the process has ended by itself."""
    until = time.monotonic() + timeout_s
    while one.site.running(name) and time.monotonic() < until:
        time.sleep(0.01)
    one.find(not one.site.running(name), f"{name} did not reach its crash point")


def worker_killed(one: Round) -> None:
    load, victim = one.load(), f"worker-{one.rng.randint(1, 2)}"
    load.after(one.some())
    pid = one.site.processes[victim].pid
    one.fault("kill -9 worker")
    one.site.kill(victim)
    one.hit([pid])
    one.site.start(victim)
    one.healed()
    one.site.ensure()


def worker_killed_at_the_end_of_a_job(one: Round) -> None:
    crash = one.rng.choice(("die_before_finish", "die_before_ack"))
    one.site.stop("worker-2")
    one.site.start("worker-2", f"{crash}={one.rng.randint(1, max(1, one.jobs // 8))}")
    one.site.ready(2)
    pid = one.site.processes["worker-2"].pid
    one.load()
    gone(one, "worker-2")
    one.fault(crash)
    one.hit([pid])
    one.site.ensure()
    one.healed()


def api_killed(one: Round) -> None:
    crash = one.rng.choice(("", *CRASHES_OF_API))
    if crash:
        assert crash in PATCHES
        one.site.stop("api")
        one.site.start("api", f"{crash}={one.some()}")
        one.site.ready(2)
    load = one.load()
    if crash:
        gone(one, "api")
    else:
        load.after(one.some())
        one.site.kill("api")
    one.fault(crash or "kill -9 api")
    one.site.ensure()
    one.healed()


def rabbit_restarted(one: Round) -> None:
    load = one.load(seconds=8.0)
    load.after(one.some(0.1, 0.4))
    one.fault("stop_app")
    one.site.rabbit.control("stop_app")
    time.sleep(one.rng.uniform(0.0, 1.0))
    one.site.rabbit.control("start_app")
    one.site.ensure()
    one.healed()
    one.load(seconds=2.0, jobs=max(1, one.jobs // 4))


def rabbit_killed(one: Round) -> None:
    load = one.load(seconds=8.0)
    load.after(one.some(0.1, 0.4))
    one.fault("kill -9 rabbitmq")
    one.site.rabbit.send(signal.SIGKILL)
    time.sleep(one.rng.uniform(0.1, 1.0))
    one.site.rabbit.start()
    one.site.ensure()
    one.healed()
    one.load(seconds=2.0, jobs=max(1, one.jobs // 4))


def rabbit_behind_a_black_hole(one: Round) -> None:
    line, probe = one.site.lines["api-rabbit"], Probe(one.site.url)
    load = one.load(seconds=8.0)
    load.after(one.some(0.1, 0.3))
    probe.start()
    one.fault("black hole api-rabbit")
    line.hole()
    time.sleep(PUBLISH_S + one.rng.uniform(1.0, 4.0))
    line.heal()
    one.healed()
    p99_s = probe.stop()
    submits = load.join()
    refused = [each for each in submits if each.outcome == "refused"]
    # A worker may have taken the job from the store meanwhile: then it is accepted, late, and its message follows.
    slowest = max(each.took_s for each in submits)
    one.find(slowest > PUBLISH_S, "nobody met the hole")
    one.find(
        all(each.status == 503 for each in refused), f"refused with {sorted({r.status for r in refused})}"
    )
    one.note("slowest_answer_s", slowest)
    one.note("healthz_p99_s", p99_s)
    one.find(slowest < 15.0, f"an answer took {slowest:.1f} s")
    one.find(p99_s < 0.1, f"/healthz p99 {p99_s * 1000:.0f} ms")


def worker_cut_off(one: Round) -> None:
    line = one.site.lines["worker-rabbit"]
    load = one.load()
    load.after(one.some())
    one.hit()
    if one.rng.random() < 0.5:
        one.fault("cut worker-rabbit")
        line.cut()
    else:
        one.fault("half-open worker-rabbit")
        line.half_open()
    one.healed()


def rabbit_stopped(one: Round) -> None:
    load = one.load(seconds=8.0)
    load.after(one.some(0.1, 0.4))
    one.fault("SIGSTOP rabbitmq")
    one.site.rabbit.send(signal.SIGSTOP)
    time.sleep(PUBLISH_S + one.rng.uniform(0.5, 3.0))
    one.site.rabbit.send(signal.SIGCONT)
    one.healed()


def redis_killed(one: Round) -> None:
    load = one.load(seconds=6.0)
    load.after(one.some(0.1, 0.5))
    one.hit()
    one.fault("kill -9 redis")
    one.site.state.send(signal.SIGKILL)
    time.sleep(one.rng.uniform(0.0, 1.0))
    one.site.state.start()
    one.site.ensure()
    one.healed()
    one.load(seconds=2.0, jobs=max(1, one.jobs // 4))


FLUSH: Final = """
local kept = {}
for _, key in ipairs(redis.call('KEYS', 'darkroom:*:job:*')) do
  local now = redis.call('HMGET', key, 'id', 'status', 'cache')
  if (now[2] == 'queued' or now[2] == 'running') and now[3] == 'miss' then
    kept[#kept + 1] = now[1]
  end
end
redis.call('FLUSHALL')
return kept
"""
"""Wipes the server; answers the jobs that had a message with the broker, or were about to get one."""


def state_flushed(one: Round) -> None:
    load = one.load()
    load.after(one.some())
    _flush(one, load)


def state_flushed_and_workers_killed(one: Round) -> None:
    """The messages in the dead workers' hands are all that is left of their jobs."""
    load = one.load()
    load.after(one.some())
    one.fault("kill -9 both workers")
    one.site.kill("worker-1")
    one.site.kill("worker-2")
    _flush(one, load)


def _flush(one: Round, load: Load) -> None:
    one.hit()
    one.fault("FLUSHALL state")
    with one.site.control as client:
        kept = set(client.eval(FLUSH, 0))
    one.forget_counts()
    one.site.ensure()
    one.healed()
    load.join()
    one.come_back(kept)
    history = one.end()
    for job_id in kept - set(history.finals):
        one.find(False, f"{job_id} was queued or running, and is gone")
    reported = [each.job_id for each in history.accepted if each.job_id not in history.finals]
    one.note("rebuilt", len(kept & set(history.finals)))
    one.note("reported_gone", len(reported))


def cache_flushed(one: Round) -> None:
    import redis

    load = one.load()
    load.after(one.some())
    one.fault("FLUSHALL cache")
    with redis.Redis(port=one.site.cache.port) as client:
        client.flushall()
    one.healed()


def redis_unreachable(one: Round) -> None:
    line = one.site.lines["api-state"]
    load = one.load(seconds=8.0)
    load.after(one.some(0.1, 0.3))
    if one.rng.random() < 0.5:
        one.fault("black hole api-redis")
        line.hole()
    else:
        one.fault("redis slow by 2 s")
        line.delay(2.0)
    time.sleep(one.rng.uniform(3.0, 5.0))
    line.heal()
    one.healed()
    submits = load.join()
    refused = [each for each in submits if each.outcome == "refused"]
    one.find(bool(refused), "nothing was refused")
    one.find(
        all(each.status == 503 for each in refused), f"refused with {sorted({r.status for r in refused})}"
    )
    slowest = max(each.took_s for each in submits)
    one.note("slowest_answer_s", slowest)
    one.find(slowest < 10.0, f"an answer took {slowest:.1f} s")


def delivered_thrice(one: Round) -> None:
    one.site.stop("api")
    one.site.start("api", "thrice")
    one.site.ready(2)
    one.fault("three deliveries")
    one.load().join()
    one.site.stop("api")
    one.site.ensure()
    one.healed()


def worker_stopped_past_its_lease(one: Round) -> None:
    load, victim = one.load(), f"worker-{one.rng.randint(1, 2)}"
    load.after(one.some())
    process = one.site.processes[victim]
    one.fault("SIGSTOP worker")
    one.site.send(victim, signal.SIGSTOP)
    one.hit([process.pid])
    # Its messages stay with it as long as its connection does: its jobs change hands when the sweeper finds them stuck.
    time.sleep(2 * LEASE_S + one.rng.uniform(2.0, 4.0))
    one.site.send(victim, signal.SIGCONT)
    one.healed()


ROWS: Final = (
    Row(1, "kill -9 a worker in mid-batch", "ALDXTR", worker_killed),
    Row(
        2,
        "kill -9 between blob and terminal write, and between that and the ack",
        "ALDXT",
        worker_killed_at_the_end_of_a_job,
    ),
    Row(3, "kill -9 the API between record, publish and 202", "ALDXT", api_killed),
    Row(4, "RabbitMQ stop_app/start_app under load", "ALDXTR", rabbit_restarted),
    Row(5, "kill -9 RabbitMQ", "ALDT", rabbit_killed),
    Row(6, "black hole between API and RabbitMQ", "ALDT", rabbit_behind_a_black_hole),
    Row(7, "cut and half-open between worker and RabbitMQ", "ALDXTR", worker_cut_off),
    Row(8, "SIGSTOP RabbitMQ past the confirm timeout, then resume", "ALDT", rabbit_stopped),
    Row(9, "kill -9 Redis (AOF)", "ALDTR", redis_killed),
    Row(10, "FLUSHALL on the state Redis", "AT", state_flushed),
    Row(
        110,
        "FLUSHALL on the state Redis, and kill -9 both workers",
        "AT",
        state_flushed_and_workers_killed,
    ),
    Row(11, "FLUSHALL on the cache Redis", "ALDT", cache_flushed),
    Row(12, "Redis black hole, Redis slow by 2 s", "ALDT", redis_unreachable),
    Row(13, "every message delivered three times", "ALDXT", delivered_thrice),
    Row(14, "SIGSTOP a worker past its lease, then resume", "ALDXT", worker_stopped_past_its_lease),
)

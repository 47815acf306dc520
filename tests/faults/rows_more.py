"""The list of faults, continued: limits of time, drains, queues, clocks, floods."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import psutil
from kombu import Connection

from broker.topology import DEAD_LETTER_QUEUE, REFUSED_QUEUE, queue_name
from tests.faults.round import Round, Row
from tests.faults.site import SETTINGS

DRAIN_S: Final = float(SETTINGS["DARKROOM_DRAIN_TIMEOUT_S"])
STAYING: Final = {"DARKROOM_WORKER_TTL_S": "60"}
"""A worker that is stopped for a while still counts as live."""
ROLLS: Final = 20
"""Times that all workers are restarted, one after another."""
GRACE_S: Final = 5.0
"""What a process may take beyond its drain timeout to be gone."""


def longer_than_the_consumer_timeout(one: Round) -> None:
    rabbit = one.site
    before = _timed_out(one)
    rabbit.rabbit_env("consumer_timeout", "3000")
    rabbit.rabbit_env("channel_tick_interval", "500")
    try:
        for number in (1, 2):
            one.site.stop(f"worker-{number}")
        one.site.ensure()
        one.fault("consumer_timeout 3 s, a batch of 6 s")
        one.load(seconds=1.0, prompt="slow=6")
        one.healed()
        time.sleep(8.0)
        one.hit()
        one.end()
        one.note("consumers_timed_out", _timed_out(one) - before)
        one.find(_timed_out(one) > before, "no consumer timed out")
    finally:
        rabbit.rabbit_env("consumer_timeout", "1800000")
        rabbit.rabbit_env("channel_tick_interval", "60000")
        for number in (1, 2):
            if one.site.running(f"worker-{number}"):
                one.site.stop(f"worker-{number}")


def _timed_out(one: Round) -> int:
    """How often a delivery was not acked in time. RabbitMQ closes the channel then, and logs it. A quorum queue of 4.3 cancels
    the consumer instead, which the worker logs."""
    closed = _said(one.site.rabbit.folder.glob("log/*.log"), "delivery acknowledgement")
    return closed + _said(one.site.folder.glob("worker-*/output.log"), "ConsumerCancelled")


def _said(logs: Iterable[Path], words: str) -> int:
    return sum(path.read_text(errors="replace").count(words) for path in logs)


def longer_than_three_heartbeats(one: Round) -> None:
    for number in (1, 2):
        one.site.stop(f"worker-{number}")
        one.site.start(f"worker-{number}", "heartbeat=1")
    one.site.ready(2)
    one.fault("heartbeat 1 s, a batch of 5 s")
    one.load(seconds=1.0, prompt="slow=5")
    one.healed()
    one.end()
    for number in (1, 2):
        one.site.stop(f"worker-{number}")


def terminated_twice(one: Round) -> None:
    load, victim = one.load(), f"worker-{one.rng.randint(1, 2)}"
    load.after(one.some())
    running = one.site.processes[victim]
    one.hit([running.pid])
    one.fault("SIGTERM, SIGTERM, SIGKILL")
    began = time.monotonic()
    running.send_signal(signal.SIGTERM)
    time.sleep(one.rng.uniform(0.0, 0.5))
    running.send_signal(signal.SIGTERM)
    try:
        running.wait(DRAIN_S + GRACE_S)
    except subprocess.TimeoutExpired:
        one.find(False, f"not out within {DRAIN_S + GRACE_S:g} s")
    one.note("drain_s", time.monotonic() - began)
    one.site.send(victim, signal.SIGKILL)
    one.site.ensure()
    one.healed()


def _p99_latency_s(one: Round, since: float, until: float) -> float:
    taken = sorted(
        final.finished_at - final.created_at
        for final in one.history.finals.values()
        if since <= final.created_at <= until and final.status == "succeeded"
    )
    return taken[int(0.99 * (len(taken) - 1))] if taken else float("inf")


def rolling_restart(one: Round) -> None:
    """Latency against the same load without restarts, at a third of the capacity."""
    seconds = 10.0
    prompt = f"slow={min(0.4, 2.6 * seconds / one.jobs):.3f}"
    calm = time.time()
    one.load(seconds=seconds, prompt=prompt).join()
    began = time.time()
    load = one.load(seconds=seconds, prompt=prompt)
    for restart in range(2 * ROLLS):
        if not load.running():
            load = one.load(seconds=seconds, prompt=prompt)
        name = f"worker-{1 + restart % 2}"
        one.fault(f"SIGTERM {name}")
        one.find(one.site.stop(name) == 0, "a worker did not end well")
        one.site.ensure()
    one.healed()
    one.end()
    refused = [each.code for each in one.history.submits if each.outcome != "accepted"]
    one.find(not refused, f"{len(refused)} were refused: {sorted(set(refused))}")
    usual, rolling = _p99_latency_s(one, calm, began), _p99_latency_s(one, began, time.time())
    one.note("p99_usual_s", usual)
    one.note("p99_rolling_s", rolling)
    one.find(rolling <= max(2 * usual, 1.5), f"p99 {rolling:.2f} s against {usual:.2f} s")


def _ready_messages(one: Round, model: str) -> int:
    return one.site.depths("messages_ready").get(queue_name(model), 0)


def queue_missing(one: Round) -> None:
    """The queue is deleted under an API that knows it to be declared. What is accepted must lie on a queue."""
    one.load(seconds=0.0, jobs=48).join()  # all at once, so that every publishing thread knows the queue
    for number in (1, 2):
        one.site.send(f"worker-{number}", signal.SIGSTOP)
    one.fault("queue deleted")
    one.site.rabbit.control("eval", _delete("fake"))
    load = one.load(seconds=1.0, jobs=min(30, one.jobs))
    submits = load.join()
    accepted = {each.seed for each in submits if each.outcome == "accepted"}
    ready = _until(lambda: _ready_messages(one, "fake"), len(accepted))
    one.find(
        ready >= len(accepted), f"{len(accepted)} different jobs accepted, {ready} messages on the queue"
    )
    for number in (1, 2):
        one.site.kill(f"worker-{number}")
    one.site.ensure()
    one.healed()
    one.history.in_flight += 2 * int(SETTINGS["DARKROOM_MAX_BATCH"]) * 2


def _delete(model: str) -> str:
    name = queue_name(model)
    return (
        f'rabbit_amqqueue:with(rabbit_misc:r(<<"/">>, queue, <<"{name}">>), '
        'fun (Q) -> rabbit_amqqueue:delete(Q, false, false, <<"faults">>) end).'
    )


def _until(number: Any, wanted: int, timeout_s: float = 15.0) -> int:
    until = time.monotonic() + timeout_s
    while (now := int(number())) < wanted and time.monotonic() < until:
        time.sleep(0.2)
    return now


def queue_full(one: Round) -> None:
    """A queue of five, whose workers are stopped: what does not fit is refused, never accepted."""
    for number in (1, 2):
        one.site.send(f"worker-{number}", signal.SIGSTOP)
    one.fault("queue full")
    submits = one.load(seconds=1.5, jobs=max(20, min(one.jobs, 40))).join()
    refused = [each for each in submits if each.outcome == "refused"]
    one.find(bool(refused), "nothing was refused")
    one.find({each.status for each in refused} <= {503}, f"answered {sorted({r.status for r in refused})}")
    for number in (1, 2):
        one.site.send(f"worker-{number}", signal.SIGCONT)
    one.healed()


def clock_off(one: Round) -> None:
    hour = one.rng.choice((3600, -3600))
    one.site.stop("api")
    one.site.stop("worker-1")
    one.site.start("api", f"clock={hour}")
    one.site.start("worker-1", f"clock={-hour}")
    one.site.ready(2)
    one.fault(f"clocks off by {hour} s and {-hour} s")
    one.load()
    one.healed()
    one.end()
    one.site.stop("api")
    one.site.stop("worker-1")


def flood(one: Round) -> None:
    """Ten thousand jobs wait. Submitting stays quick, and the API's memory flat; then all are run."""
    site = one.site
    for number in (1, 2):
        site.send(f"worker-{number}", signal.SIGSTOP)
    api = psutil.Process(site.processes["api"].pid)
    before = api.memory_info().rss
    one.fault(f"{one.jobs} jobs queued")
    load = one.load(seconds=one.jobs / 100, prompt="queued")
    took = sorted(each.took_s for each in load.join() if each.outcome == "accepted")
    grown = api.memory_info().rss - before
    one.note("submit_p99_s", took[int(0.99 * (len(took) - 1))])
    one.note("api_grew_mib", grown / 2**20)
    one.find(len(took) >= 0.99 * one.jobs, f"only {len(took)} were accepted")
    one.find(took[int(0.99 * (len(took) - 1))] < 0.2, f"submit p99 {one.history.notes['submit_p99_s']} s")
    one.find(grown < 64 * 2**20, f"the API grew by {grown / 2**20:.0f} MiB")
    for number in (1, 2):
        site.send(f"worker-{number}", signal.SIGCONT)
    one.healed()
    one.end(follow_s=600.0)


class _Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self._path,)


def foreign_messages(one: Round) -> None:
    """A pickle, an unknown task, and no task at all, on the jobs' queue: not executed, kept aside, and no hindrance."""
    one.note("kept_before", one.site.depths("messages").get(REFUSED_QUEUE, 0))
    # What one worker refuses and what the broker drops both end there.
    trace = one.site.folder / f"executed-{one.history.seed}"
    task = {"task": "darkroom.generate", "id": "x", "argsrepr": "", "kwargsrepr": ""}
    with Connection(one.site.rabbit.url) as connection:
        channel = connection.channel()
        for body, content_type, encoding, headers in (
            (pickle.dumps(([_Bomb(str(trace))], {}, {})), "application/x-python-serialize", "binary", task),
            (b"[[],{},{}]", "application/json", "utf-8", {**task, "task": "os.system"}),
            # One that Celery brings along.
            (b"[[[1]],{},{}]", "application/json", "utf-8", {**task, "task": "celery.accumulate"}),
            (b"\xff\x00", "application/octet-stream", "binary", {}),
            (b'[[{"version": 99}],{},{}]', "application/json", "utf-8", task),
        ):
            message = channel.prepare_message(
                body, content_type=content_type, content_encoding=encoding, headers=headers
            )
            channel.basic_publish(message, exchange="", routing_key=queue_name("fake"))
    one.fault("five foreign messages")
    one.load(seconds=2.0)
    one.healed()
    one.end()
    one.find(not trace.exists(), "the pickle was executed")
    shutil.rmtree(trace, ignore_errors=True)

    def kept() -> int:
        depth = one.site.depths("messages")
        one.note("left_on_jobs_queue", depth[queue_name("fake")])
        one.note("dead", depth.get(DEAD_LETTER_QUEUE, 0))
        return depth.get(REFUSED_QUEUE, 0)

    before = one.history.notes["kept_before"]
    one.find(_until(kept, int(before) + 5) == before + 5, f"not all were kept aside: {one.history.notes}")


MORE_ROWS: Final = (
    Row(15, "a batch longer than consumer_timeout", "ADT", longer_than_the_consumer_timeout, jobs=12),
    Row(16, "a batch longer than three heartbeats", "ALDXT", longer_than_three_heartbeats, jobs=12),
    Row(23, "SIGTERM under load, twice, then SIGKILL", "ALDT", terminated_twice),
    Row(24, "rolling restart of all workers, 20 times", "ALDT", rolling_restart, jobs=100),
    Row(26, "queue missing", "ALDT", queue_missing, jobs=30, settings=STAYING),
    Row(
        126,
        "queue full",
        "ALDT",
        queue_full,
        jobs=30,
        settings={**STAYING, "DARKROOM_MODEL_NAME": "small", "DARKROOM_QUEUE_MAX_LENGTH": "5"},
    ),
    Row(27, "clocks one hour off", "ALDXT", clock_off, jobs=60),
    Row(
        28,
        "10,000 queued jobs",
        "ALDT",
        flood,
        jobs=10_000,
        settings={"DARKROOM_JOB_TTL_S": "3600", "DARKROOM_LEASE_S": "600", "DARKROOM_WORKER_TTL_S": "600"},
    ),
    Row(39, "a pickle message, an unknown task", "ALDT", foreign_messages, jobs=20),
)

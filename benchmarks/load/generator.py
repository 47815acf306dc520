"""Sends the requests of a schedule at their times, whatever the server does, from several processes if need be."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Final, Self

import aiohttp
from aiohttp import web

from benchmarks.load.modes import MODES, Caller, Progress, Refused
from benchmarks.load.sample import OK, Sample, sample
from benchmarks.load.schedule import Planned

LEAD_S: Final = 0.5
"""From the order to the first request, so that all processes are ready."""
TICK_S: Final = 0.2

SENT, ENDED, FAILED = range(3)


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes. `keys` by tenant never enter a report."""

    url: str
    keys: dict[str, str]
    timeout_s: float = 60.0
    poll_s: float = 0.1
    hook_host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Sent:
    """What a run of the generator brought. `cpu_share` is the busiest process's share of a core."""

    samples: list[Sample]
    cpu_share: float


_counts: Any = None


def _begin(counts: Any) -> None:
    global _counts
    _counts = counts


async def _one(caller: Caller, planned: Planned, start: float, timeout_s: float) -> Sample:
    progress = Progress()
    sent = time.monotonic()
    _counts[SENT] += 1
    try:
        async with asyncio.timeout(timeout_s):
            await MODES[planned.mode](caller, planned, progress)
        status = progress.job.get("status")
        outcome = OK if status == OK else str((progress.job.get("error") or {}).get("code") or status)
    except Refused as error:
        outcome = error.code
    except TimeoutError:
        outcome = "timeout"
    except (aiohttp.ClientError, OSError) as error:
        outcome = type(error).__name__
    ended = time.monotonic()
    _counts[ENDED] += 1
    _counts[FAILED] += outcome != OK
    return sample(planned, sent - start, ended - start, outcome, progress.job_id, progress.job)


async def _send(part: Sequence[Planned], target: Target, start: float) -> list[Sample]:
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        caller = Caller(session, target.url, target.keys, target.poll_s)
        hooks = await _listen(caller, target) if any(each.mode == "webhook" for each in part) else None
        running: list[asyncio.Task[Sample]] = []
        for planned in part:
            if (left := start + planned.at_s - time.monotonic()) > 0:
                await asyncio.sleep(left)
            running.append(asyncio.create_task(_one(caller, planned, start, target.timeout_s)))
        samples = await asyncio.gather(*running)
        if hooks is not None:
            await hooks.cleanup()
    return samples


async def _listen(caller: Caller, target: Target) -> web.AppRunner:
    """A server of our own that the platform calls when a job has ended."""

    async def called(request: web.Request) -> web.Response:
        event = await request.json()
        job_id = (event.get("data") or event)["id"]
        ended = caller.hooks.setdefault(job_id, asyncio.get_running_loop().create_future())
        if not ended.done():
            ended.set_result(None)
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/", called)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, target.hook_host, 0)
    await site.start()
    port = runner.addresses[0][1]
    caller.hook_url = f"http://{target.hook_host}:{port}/"
    return runner


def _process(part: Sequence[Planned], target: Target, start: float) -> tuple[list[Sample], float]:
    # A collection in the midst of the load would look like a slow server.
    gc.collect()
    gc.freeze()
    gc.disable()
    begun, used = time.monotonic(), time.process_time()
    samples = asyncio.run(_send(part, target, start))
    share = (time.process_time() - used) / (time.monotonic() - begun)
    gc.enable()
    return samples, share


def _pid() -> int:
    return os.getpid()


class Generator:
    """A pool of sending processes. Use as a context; one `run` at a time."""

    def __init__(self, processes: int = 1) -> None:
        self._processes = processes
        context = multiprocessing.get_context("spawn")
        self._counts = context.Array("q", 3 * processes, lock=False)
        # One executor each, so that every process gets its own part.
        self._pools = [
            ProcessPoolExecutor(1, context, _begin, (_Part(self._counts, number),))
            for number in range(processes)
        ]

    def __enter__(self) -> Self:
        # Imports are over before the first load.
        for pool in self._pools:
            pool.submit(_pid).result()
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)

    def run(
        self, requests: Sequence[Planned], target: Target, tick: Callable[[int, int, int], None] | None = None
    ) -> Sent:
        """Sends all, and waits for the last answer. `tick` is told every `TICK_S` how many were sent, ended, failed."""
        self._counts[:] = [0] * len(self._counts)
        start = time.monotonic() + LEAD_S
        jobs: list[Future[tuple[list[Sample], float]]] = [
            pool.submit(_process, requests[number :: self._processes], target, start)
            for number, pool in enumerate(self._pools)
        ]
        while wait(jobs, timeout=TICK_S).not_done:
            if tick is not None:
                tick(*(sum(self._counts[kind::3]) for kind in (SENT, ENDED, FAILED)))
        done = [job.result() for job in jobs]
        samples = sorted((each for part, _ in done for each in part), key=lambda each: each.at_s)
        return Sent(samples, max(share for _, share in done))


class _Part:
    """Three counters of a shared array. Made here, used in the child: pickled with the pool's initial arguments."""

    def __init__(self, counts: Any, number: int) -> None:
        self._counts = counts
        self._offset = 3 * number

    def __getitem__(self, index: int) -> int:
        return int(self._counts[self._offset + index])

    def __setitem__(self, index: int, value: int) -> None:
        self._counts[self._offset + index] = value

"""A tenant that takes what it can get: streams on one job, reads, and submits, within its limits or beyond them."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from benchmarks.lib import bare_http

SOURCE: Final = "127.0.0.2"
"""Where its reads and submits come from."""
STREAM_SOURCES: Final = 20
"""Its streams come from so many more, as a proxy bounds what one address may have."""
CONNECTIONS: Final = 16
"""Kept open for reads, and as many for submits."""
LONG_JOB: Final = {"prompt": "slow=0.4", "num_inference_steps": 50}
"""What its streams follow: fifty changes in twenty seconds."""
RAMP: Final = 50
"""Streams that begin at once."""
BACK_S: Final = 1.0
SEEDS: Final = 1 << 40
"""Its jobs' seeds begin here, so that they are nobody else's."""


class Greedy:
    """Counts the answers by status, and `streams` by how many were open at most."""

    def __init__(self, port: int, key: str, owner_key: str) -> None:
        """`owner_key` is another key of the tenant, so that its long job is looked after whatever `key` has used up."""
        self._port = port
        self._key = key
        self._owner_key = owner_key
        self._path = ""
        self._open = 0
        self._seeds = itertools.count(SEEDS + random.getrandbits(32))
        self.counts: Counter[str] = Counter()

    async def run(
        self, streams: int, reads_per_s: float, submits_per_s: float, ready: Callable[[], None]
    ) -> None:
        """Until it is canceled. `ready` is called once, when every stream has been asked for and there is a job to read."""
        async with asyncio.TaskGroup() as group:
            first = asyncio.Event()
            group.create_task(self._long_job(first))
            await first.wait()
            asked = asyncio.Semaphore(0)
            for number in range(streams):
                group.create_task(self._stream(f"127.0.2.{1 + number % STREAM_SOURCES}", asked))
                if number % RAMP == RAMP - 1:
                    for _ in range(RAMP):
                        await asked.acquire()
            if reads_per_s:
                self._flood(group, reads_per_s, self._reads(), "reads")
            if submits_per_s:
                self._flood(group, submits_per_s, self._submits(), "submits")
            ready()

    async def _long_job(self, first: asyncio.Event) -> None:
        """There is always a job that runs, or waits to."""
        while True:
            with suppress(OSError, EOFError):
                made = await bare_http.exchange(self._port, self._submit(LONG_JOB, self._owner_key))
                self.counts[f"long jobs {made.status}"] += 1
                if made.status == 202:
                    self._path = made.json()["urls"]["self"]
                    first.set()
                    look = bare_http.request("GET", self._path, self._owner_key, more="Prefer: wait=5\r\n")
                    while (await bare_http.exchange(self._port, look)).json().get("status") in (
                        "queued",
                        "running",
                    ):
                        continue
                    continue
            await asyncio.sleep(BACK_S)

    async def _stream(self, source: str, asked: asyncio.Semaphore) -> None:
        """One stream after the other on the long job; one that is refused comes again when it is told to."""
        while True:
            try:
                wait_s = await self._streamed(source, asked)
            except (OSError, EOFError):
                wait_s = BACK_S
                self.counts["streams closed"] += 1
                asked.release()
            await asyncio.sleep(wait_s * random.uniform(1.0, 1.2))

    async def _streamed(self, source: str, asked: asyncio.Semaphore) -> float:
        """One stream to its end; seconds until the next."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(source, 0))
        try:
            writer.write(bare_http.request("GET", f"{self._path}/events", self._key, close=True))
            status, head = await bare_http.begun(reader)
            self.counts[f"streams {status}"] += 1
            asked.release()
            if status == 200:
                await self._followed(reader)
            return float(bare_http.value_of(head, b"retry-after") or BACK_S)
        finally:
            writer.close()

    async def _followed(self, reader: asyncio.StreamReader) -> None:
        self._open += 1
        self.counts["streams open"] = max(self.counts["streams open"], self._open)
        try:
            while await reader.read(65_536):
                continue
        finally:
            self._open -= 1

    def _flood(self, group: asyncio.TaskGroup, per_s: float, messages: Iterator[bytes], name: str) -> None:
        for _ in range(CONNECTIONS):
            group.create_task(self._ask(CONNECTIONS / per_s, messages, name))

    async def _ask(self, gap_s: float, messages: Iterator[bytes], name: str) -> None:
        """A request every `gap_s`, or as soon as the one before is answered, on one connection for as long as that lives."""
        while True:
            with suppress(OSError, EOFError):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self._port, local_addr=(SOURCE, 0)
                )
                try:
                    due = time.monotonic() + random.uniform(0, gap_s)
                    while True:
                        await asyncio.sleep(max(0.0, due - time.monotonic()))
                        due = max(due + gap_s, time.monotonic() - gap_s)
                        writer.write(next(messages))
                        self.counts[f"{name} {(await bare_http.answer(reader)).status}"] += 1
                finally:
                    writer.close()
            self.counts[f"{name} closed"] += 1
            await asyncio.sleep(BACK_S)

    def _reads(self) -> Iterator[bytes]:
        while True:
            yield bare_http.request("GET", self._path, self._key)

    def _submits(self) -> Iterator[bytes]:
        while True:
            yield self._submit({"prompt": "a red apple"}, self._key)

    def _submit(self, body: dict[str, object], key: str) -> bytes:
        return bare_http.request("POST", "/v1/jobs", key, {**body, "seed": next(self._seeds)})

"""The good client: it polls a job, submits one, and reads a picture, at its own pace, on a new connection each time."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Final

from benchmarks.lib import bare_http

PER_S: Final = 8.0
"""Requests of each kind."""
PATIENCE_S: Final = 30.0
HELD: Final = "Prefer: wait=30\r\n"
BODY: Final = {"prompt": "a red apple on a blue background"}
KINDS: Final = ("poll", "submit", "read")


class Good:
    """Its requests leave when they are due, whatever becomes of those before: what is measured counts from then."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key
        self._seeds = itertools.count(1)
        self._messages: dict[str, bytes] = {}
        self.failed: list[str] = []
        """What came instead of an answer that is right."""

    async def begin(self) -> None:
        """Has one picture made, which is polled and read from then on. Raises `RuntimeError`."""
        made = await bare_http.exchange(self._port, self._submit(HELD))
        if made.status != 200:
            raise RuntimeError(f"The first job was answered {made.status}: {made.body!r}")
        job = made.json()
        self._messages = {
            "poll": bare_http.request("GET", job["urls"]["self"], self._key, close=True),
            "read": bare_http.request("GET", job["images"][0]["url"], self._key, close=True),
        }

    async def phase(self, seconds: float) -> dict[str, list[float]]:
        """Seconds of each request, by kind."""
        took: dict[str, list[float]] = {kind: [] for kind in KINDS}
        began, gap_s = time.monotonic(), 1 / (PER_S * len(KINDS))
        async with asyncio.TaskGroup() as group:
            for number in range(int(seconds / gap_s)):
                due = began + number * gap_s
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                kind = KINDS[number % len(KINDS)]
                group.create_task(self._ask(kind, due, took[kind]))
        return took

    async def _ask(self, kind: str, due: float, took: list[float]) -> None:
        message = self._messages.get(kind) or self._submit("Connection: close\r\n")
        try:
            async with asyncio.timeout(PATIENCE_S):
                status = (await bare_http.exchange(self._port, message)).status
            if status != (202 if kind == "submit" else 200):
                self.failed.append(f"{kind} {status}")
        except (OSError, EOFError, TimeoutError) as error:
            self.failed.append(f"{kind} {type(error).__name__}")
        took.append(time.monotonic() - due)

    def _submit(self, more: str) -> bytes:
        body = {**BODY, "seed": next(self._seeds)}
        return bare_http.request("POST", "/v1/jobs", self._key, body, more=more)

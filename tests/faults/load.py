"""The clients of a round: they submit on a seeded schedule, write down what they were told, and follow their jobs to the end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

import httpx

from tests.faults.history import TERMINAL, Submit

CLIENTS: Final = 12
TIMEOUT_S: Final = 20.0
PAUSE_S: Final = 0.2
"""A client whose connection was lost waits this long."""
TWICE: Final = 0.1
"""Share of the requests that ask for what an earlier one asked for."""


def client(url: str, timeout_s: float = TIMEOUT_S) -> httpx.Client:
    """For any number of threads. Without TLS: reading the certificates of this machine takes longer than ten requests."""
    return httpx.Client(base_url=url, timeout=timeout_s, verify=False)


class Load:
    """`jobs` submits over about `seconds`, in the background from `start` on; `join` waits for the last answer."""

    def __init__(
        self,
        url: str,
        rng: random.Random,
        jobs: int,
        seconds: float,
        prompt: str = "",
        body: Callable[[int], dict[str, Any]] | None = None,
        repeats: bool = True,
    ) -> None:
        self._url = url
        # Two workers with batches of four are just busy all the time.
        self._prompt = prompt or f"slow={min(0.5, 8 * seconds / jobs):.3f}"
        self._body = body
        first = rng.randrange(2**40)
        seeds: list[int] = []
        for number in range(jobs):
            twice = repeats and seeds and rng.random() < TWICE
            seeds.append(rng.choice(seeds) if twice else first + number)
        times = sorted(rng.uniform(0.0, seconds) for _ in seeds)
        self._plan = list(zip(times, seeds, strict=True))
        self._began = 0.0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(CLIENTS, thread_name_prefix="client")
        self._futures: list[Any] = []
        self.submits: list[Submit] = []

    @property
    def seeds(self) -> set[int]:
        return {seed for _, seed in self._plan}

    def start(self) -> None:
        self._began = time.monotonic()
        self._next = iter(self._plan)
        self._futures = [self._pool.submit(self._client) for _ in range(CLIENTS)]

    def join(self) -> list[Submit]:
        for future in self._futures:
            future.result()
        self._pool.shutdown()
        return self.submits

    def running(self) -> bool:
        """Whether there is more to submit."""
        return not all(future.done() for future in self._futures)

    def after(self, count: int, timeout_s: float = 60.0) -> None:
        """Returns once that many answers are in."""
        until = time.monotonic() + timeout_s
        while len(self.submits) < min(count, len(self._plan)) and time.monotonic() < until:
            time.sleep(0.005)

    def _client(self) -> None:
        with client(self._url) as http:
            while True:
                with self._lock:
                    planned = next(self._next, None)
                if planned is None:
                    return
                at, seed = planned
                time.sleep(max(0.0, self._began + at - time.monotonic()))
                submit = self._submit(http, seed)
                with self._lock:
                    self.submits.append(submit)
                if submit.outcome == "unknown":
                    time.sleep(PAUSE_S)

    def _submit(self, http: httpx.Client, seed: int) -> Submit:
        at, begun = time.time(), time.monotonic()
        body = self._body(seed) if self._body else {"prompt": self._prompt, "seed": seed}
        try:
            response = http.post("/v1/jobs", json=body)
            answer = response.json()
        except (httpx.TransportError, ValueError):
            return Submit(seed, at, time.monotonic() - begun, "unknown")
        took_s = time.monotonic() - begun
        if response.status_code in (200, 202):
            return Submit(seed, at, took_s, "accepted", response.status_code, job_id=answer["id"])
        return Submit(seed, at, took_s, "refused", response.status_code, answer["error"]["code"])


def follow(url: str, job_ids: list[str], until: float) -> dict[str, str]:
    """What each job's owner is told last: its terminal state, or what there was at `until` (monotonic seconds). An API that
    is away is asked again."""

    def one(job_id: str) -> tuple[str, str]:
        seen = ""
        while time.monotonic() < until:
            with suppress(httpx.TransportError, ValueError):
                response = http.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=5"})
                if response.status_code == 200:
                    seen = response.json()["status"]
                    if seen in TERMINAL:
                        return job_id, seen
                elif response.status_code in (404, 410):
                    return job_id, "gone"
            time.sleep(0.05)
        return job_id, seen

    with client(url) as http, ThreadPoolExecutor(CLIENTS) as pool:
        return dict(pool.map(one, job_ids))


class Probe:
    """Asks `/healthz` all the time; `stop` answers the 99th percentile of its times, in seconds."""

    def __init__(self, url: str, every_s: float = 0.05) -> None:
        self._url = url
        self._every_s = every_s
        self._ending = threading.Event()
        self._times: list[float] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> float:
        self._ending.set()
        self._thread.join(10)
        ordered = sorted(self._times)
        return ordered[int(0.99 * (len(ordered) - 1))] if ordered else float("inf")

    def _run(self) -> None:
        with client(self._url, 10.0) as http:
            while not self._ending.wait(self._every_s):
                begun = time.monotonic()
                with suppress(httpx.TransportError):
                    http.get("/healthz")
                self._times.append(time.monotonic() - begun)

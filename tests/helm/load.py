"""Load on a release that runs, and what became of every request."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Self

import httpx


class Load:
    """Clients that submit jobs and see them end, from entry to exit. Every request must be answered."""

    def __init__(self, url: str, key: str, clients: int = 6) -> None:
        self._url, self._key = url, key
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(n,)) for n in range(clients)]
        self.ended: Counter[str] = Counter()
        self.faults: list[str] = []
        self.revisions: set[str] = set()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int, timeout_s: float = 60.0) -> None:
        """Returns after that many more jobs have ended."""
        wanted, until = self.ended.total() + count, time.monotonic() + timeout_s
        while self.ended.total() < wanted:
            assert time.monotonic() < until, (self.ended, self.faults)
            time.sleep(0.05)

    def _client(self, number: int) -> None:
        seed = number * 1_000_000
        headers = {"Authorization": f"Bearer {self._key}"}
        with httpx.Client(base_url=self._url, timeout=90, headers=headers) as http:
            while not self._enough.is_set():
                seed += 1
                try:
                    answer = http.post("/v1/jobs", json={"prompt": "slow=0.1", "seed": seed})
                    assert answer.status_code in (200, 202), answer.text
                    job = answer.json()
                    while job["status"] in ("queued", "running"):
                        again = http.get(job["urls"]["self"], headers={"Prefer": "wait=10"})
                        assert again.status_code == 200, again.text
                        job = again.json()
                    self.ended[job["status"]] += 1
                except (AssertionError, httpx.HTTPError) as error:
                    self.faults.append(f"{type(error).__name__}: {error}")

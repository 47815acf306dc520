"""A long queue: filled by the batch from several clients at once, and asked for."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, Final

import httpx

from benchmarks.lib.asking import Unanswered, connect, post

FILLERS: Final = 4
BATCH: Final = 256
"""Jobs that one request may hold."""
TRIES: Final = 5
LISTED: Final = 100


def sizes(count: int) -> list[int]:
    """`count` jobs in batches that a request may hold."""
    whole, rest = divmod(count, BATCH)
    return [BATCH] * whole + [rest] * (rest > 0)


def fill(url: str, count: int, request: Callable[[], dict[str, Any]], key: str = "") -> float:
    """Submits `count` jobs; answers jobs per second. Raises `Unanswered` unless all are accepted in the end."""
    left = iter(sizes(count))

    def client() -> None:
        with closing(connect(url)) as connection:
            for size in left:
                _submit_all(connection, [request() for _ in range(size)], key)

    begun = time.perf_counter()
    with ThreadPoolExecutor(FILLERS) as pool:
        for done in [pool.submit(client) for _ in range(FILLERS)]:
            done.result()
    return count / (time.perf_counter() - begun)


def _submit_all(connection: http.client.HTTPConnection, requests: list[dict[str, Any]], key: str) -> None:
    """A batch until all of it is accepted: what the API refuses for the moment is sent again."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    for _ in range(TRIES):
        _, status, data = post(connection, "/v1/jobs:batch", {"requests": requests}, **headers)
        if status not in (200, 207):
            break
        items = json.loads(data)["data"]
        refused = [item for item in items if item["error"]]
        if not refused:
            return
        if any(item["status"] not in (429, 503) for item in refused):
            break
        requests = [requests[item["index"]] for item in refused]
        time.sleep(max(item["retry_after_s"] or 1 for item in refused))
    raise Unanswered(data.decode()[-500:])


def waiting(http: httpx.Client) -> int:
    """How many of the tenant's jobs are ahead of its newest."""
    newest = http.get("/v1/jobs", params={"limit": 1}).raise_for_status().json()
    return int(newest["data"][0]["queue_position"] or 0)


def ends(http: httpx.Client) -> list[float]:
    """When the tenant's finished jobs ended, ascending."""
    found: list[float] = []
    params: dict[str, str | int] = {"limit": LISTED}
    while True:
        answer = http.get("/v1/jobs", params=params).raise_for_status().json()
        found += [each["finished_at"] for each in answer["data"] if each["status"] == "succeeded"]
        if not answer["next_cursor"]:
            return sorted(found)
        params["after"] = answer["next_cursor"]

"""What the server says of itself while the load runs: live workers, its rate, and the gauges of `/metrics`."""

from __future__ import annotations

import threading
import time
from typing import Any, Final, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

EVERY_S: Final = 1.0
PREFIX: Final = "darkroom_"


def gauges(text: str) -> dict[str, float]:
    """Our gauges in a page of Prometheus' text format, summed over their labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        # Counters carry the time of their creation beside them, as a gauge.
        named = family.name.startswith(PREFIX) and not family.name.endswith("_created")
        if family.type == "gauge" and named:
            found[family.name.removeprefix(PREFIX)] = sum(each.value for each in family.samples)
    return found


class Watch:
    """A thread that asks every `EVERY_S` seconds, as a context. `series` maps a name to (seconds, value) pairs; what the
    server does not answer is not there."""

    def __init__(self, url: str, key: str | None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, timeout=5, headers=headers)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._started = time.monotonic()
        self.series: dict[str, list[tuple[float, float]]] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._http.close()

    def _run(self) -> None:
        while not self._ended.wait(EVERY_S):
            at_s = round(time.monotonic() - self._started, 2)
            try:
                seen = self._look()
            except (httpx.HTTPError, ValueError, KeyError):
                continue
            for name, value in seen.items():
                self.series.setdefault(name, []).append((at_s, value))

    def _look(self) -> dict[str, float]:
        page = self._http.get("/metrics")
        seen = gauges(page.text) if page.status_code == 200 else {}
        listed = self._http.get("/v1/models")
        if listed.status_code == 200:
            models: list[dict[str, Any]] = listed.json()["data"]
            seen["live_workers"] = sum(model["live_workers"] for model in models)
            seen["images_per_s"] = sum(model["images_per_s"] for model in models)
        return seen

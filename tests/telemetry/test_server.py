"""The HTTP server of processes that have none."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from telemetry import metrics
from telemetry.server import OperationServer


@pytest.fixture
def faults() -> dict[str, str | None]:
    return {"alive": None, "ready": "It loads its model."}


@pytest.fixture
def http(faults: dict[str, str | None]) -> Iterator[httpx.Client]:
    server = OperationServer(0, lambda: faults["alive"], lambda: faults["ready"])
    server.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
        yield client
    server.stop()


def test_unready_says_why(http: httpx.Client, faults: dict[str, str | None]) -> None:
    answer = http.get("/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "It loads its model.")
    faults["ready"] = None
    assert http.get("/readyz").json() == {"status": "ok"}


def test_alive_until_it_is_not(http: httpx.Client, faults: dict[str, str | None]) -> None:
    assert http.get("/healthz").status_code == 200
    faults["alive"] = "stuck"
    assert http.get("/healthz").status_code == 503


def test_metrics_and_nothing_else(http: httpx.Client) -> None:
    metrics.RELAYED.labels("counted here only").inc()
    assert 'darkroom_relayed_total{reason="counted here only"} 1.0' in http.get("/metrics?x=1").text
    assert http.get("/").status_code == 404
    assert http.post("/metrics").status_code == 501

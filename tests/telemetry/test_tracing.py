"""Traces: one covers a job from the API to its image over real processes. Nothing is traced when tracing is off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.services.rabbitmq import RabbitServer
from contracts.settings import BackendSettings
from telemetry import tracing
from tests.integration.conftest import ROOT, Stack
from tests.telemetry.collector import Collector, Seen

SERVER, PRODUCER, CONSUMER = 2, 4, 5


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    running.start()
    yield running
    running.stop()


@pytest.fixture
def traced(collector: Collector) -> Iterator[Collector]:
    tracing.configure(BackendSettings(otlp_endpoint=collector.url), "test")
    yield collector
    tracing.shutdown()


@pytest.fixture
def stack(tmp_path: Path, rabbit_server: RabbitServer, collector: Collector) -> Iterator[Stack]:
    """API and worker that send to the collector. The broker is that of the whole run, so the model has a queue of its own."""
    settings = {"ENGINE": "fake", "MODEL": "traced", "OTLP_ENDPOINT": collector.url}
    environ = {f"DARKROOM_{name}": value for name, value in settings.items()}
    with Stack.open(environ, tmp_path, broker=rabbit_server) as running:
        yield running


def named(spans: list[Seen], name: str) -> Seen:
    (found,) = [each for each in spans if each.name == name]
    return found


@pytest.mark.slow
def test_one_trace_from_http_to_picture(stack: Stack, collector: Collector) -> None:
    given = f"00-{0xABCDEF:032x}-{0x1234:016x}-01"
    response = stack.http.post(
        "/v1/jobs",
        json={"prompt": "an unmistakable xylograph"},
        headers={"traceparent": given, "X-Request-ID": "req-42"},
    )
    job = stack.ended(response.json())
    assert job["status"] == "succeeded"
    spans = collector.wait_for(
        lambda seen: {"finish", "batch traced", "POST /v1/jobs"} <= {each.name for each in seen}
    )
    ours = [each for each in spans if each.trace_id == f"{0xABCDEF:032x}"]
    by_id = {each.span_id: each for each in ours}

    def path(span: Seen) -> list[str]:
        above = by_id.get(span.parent_id)
        return [*(path(above) if above else []), span.name]

    queue = "darkroom.jobs.traced"
    top = ["POST /v1/jobs", "process traced"]
    assert path(named(ours, "finish")) == [*top, "finish"]
    assert path(named(ours, "draw")) == [*top, "draw"]
    assert path(named(ours, "record job")) == ["POST /v1/jobs", "record job"]
    assert path(named(ours, f"send {queue}")) == ["POST /v1/jobs", f"send {queue}"]
    kinds = [named(ours, name).kind for name in ("POST /v1/jobs", f"send {queue}", "process traced")]
    assert kinds == [SERVER, PRODUCER, CONSUMER]
    assert named(ours, "POST /v1/jobs").attributes["http.response.status_code"] == "202"

    batch = named(spans, "batch traced")
    process = named(ours, "process traced")
    assert batch.trace_id != process.trace_id, "a batch belongs to many jobs"
    assert batch.links == ((process.trace_id, process.span_id),)
    assert named(ours, "draw").links == ((batch.trace_id, batch.span_id),)
    assert "xylograph" not in repr(spans)

    lines = [
        json.loads(line)
        for path in stack.folder.glob("*/output.log")
        for line in path.read_text().splitlines()
        if line.startswith("{")  # Celery says its last words itself
    ]
    accepted, finished = (
        next(line for line in lines if line["event"] == event) for event in ("job_accepted", "job_finished")
    )
    for line in (accepted, finished):
        assert (line["job_id"], line["request_id"]) == (job["id"], "req-42")
        assert line["trace_id"] == f"{0xABCDEF:032x}"
    assert (accepted["service"], finished["service"]) == ("api", "worker")


def test_a_failure_is_marked_by_type_and_never_by_message(traced: Collector) -> None:
    def failing() -> None:
        with tracing.span("bad"):
            raise ValueError("a prompt")

    with pytest.raises(ValueError, match="a prompt"):
        failing()
    tracing.shutdown()
    (span,) = traced.spans
    assert span.failed
    assert span.attributes["error.type"] == "ValueError"
    assert "a prompt" not in repr(span)


@pytest.mark.parametrize("bad", ["", "x", "00-0-0-01", f"00-{0:032x}-{1:016x}-01", "é" * 55])
def test_a_traceparent_that_is_none_begins_a_trace(traced: Collector, bad: str) -> None:
    with tracing.span("a", parent=bad) as span:
        span.link(bad)
    tracing.shutdown()
    (seen,) = traced.spans
    assert (seen.parent_id, seen.links) == ("", ())


def test_a_caller_that_does_not_sample_is_followed(traced: Collector) -> None:
    with tracing.span("a", parent=f"00-{1:032x}-{1:016x}-00"):
        pass
    tracing.shutdown()
    assert traced.spans == []


def test_a_collector_that_is_away_harms_nothing() -> None:
    tracing.configure(BackendSettings(otlp_endpoint="http://127.0.0.1:9"), "test")
    with tracing.span("a"):
        pass
    tracing.shutdown()


def test_off_imports_nothing_and_forgets_everything() -> None:
    code = (
        "import sys; from telemetry import tracing; from contracts.settings import BackendSettings\n"
        "tracing.configure(BackendSettings(), 'x')\n"
        "with tracing.span('a', root=True, links=['x'], attributes={'b': 1}) as span:\n"
        "    span.link('x'); span.set({'c': 2}); span.rename('d')\n"
        "    assert span.traceparent is None and tracing.current() is None\n"
        "import api.app, broker.publisher, worker.batcher\n"
        "assert not [name for name in sys.modules if name.startswith(('opentelemetry.exporter', 'opentelemetry.sdk.trace'))]\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )

"""The generator with its real processes, against a real server that answers every request with the same bytes."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from benchmarks.load import __main__ as command
from benchmarks.load import audit, generator, outcome
from benchmarks.load.ceiling import BODY, constant_server
from benchmarks.load.generator import Generator, Target
from benchmarks.load.modes import MODES, Caller, Progress, Refused
from benchmarks.load.sample import Sample
from benchmarks.load.schedule import Load, Planned, schedule
from cli.services import process

pytestmark = pytest.mark.slow

PLANNED = Planned(0, 0.0, "wait", "default", "a", {"prompt": "a cat", "seed": 1, "width": 64, "height": 32})


def test_every_request_is_sent_once_by_one_of_the_processes_and_counted() -> None:
    planned = schedule(Load(repeats=0.0), 100, 2.0, 0).requests
    ticks: list[tuple[int, int, int]] = []
    with constant_server() as url, Generator(processes=2) as sender:
        for _ in range(2):
            sent = sender.run(planned, Target(url, {}), lambda *counts: ticks.append(counts))
            assert [each.at_s for each in sent.samples] == [each.at_s for each in planned]
            assert all(each.ok and each.cache == "hit" and each.lag_s >= 0 for each in sent.samples)
            assert ticks[-1][2] == 0
    assert max(counts[1] for counts in ticks) <= len(planned)
    assert max(counts[1] for counts in ticks) > 0


def test_a_server_that_is_away_is_an_outcome_and_no_crash() -> None:
    planned = schedule(Load(), 20, 0.5, 0).requests
    with Generator() as sender:
        sent = sender.run(planned, Target("http://127.0.0.1:9", {}))
    assert {each.outcome for each in sent.samples} == {"ClientConnectorError"}


class Platform:
    """A tiny server that speaks the wire contract: a job ends on its second read, events and webhooks tell of it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, Any, str | None]] = []
        self.status = "queued"
        self._calls: set[asyncio.Task[None]] = set()

    def job(self) -> dict[str, Any]:
        return {**json.loads(BODY), "status": self.status}

    async def submit(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.seen.append(("POST", request.path, body, request.headers.get("Authorization")))
        if body["prompt"] == "refused":
            return web.json_response({"error": {"code": "queue_full"}}, status=503)
        if request.path.endswith("generations"):
            return web.json_response({"created": 1, "data": [{"url": "/v1/images/a.png"}]})
        if "webhook" in body:
            task = asyncio.create_task(self._call(body["webhook"]["url"]))
            self._calls.add(task)
        return web.json_response(self.job(), status=202)

    async def _call(self, url: str) -> None:
        self.status = "succeeded"
        async with httpx.AsyncClient() as http:
            answer = await http.post(url, json={"type": "job.succeeded", "data": self.job()})
        assert answer.status_code == 204

    async def read(self, request: web.Request) -> web.Response:
        self.seen.append(("GET", request.path, request.headers.get("Prefer"), None))
        self.status = "succeeded"
        return web.json_response(self.job())

    async def events(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(("GET", request.path, None, None))
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b"event: status\ndata: {}\n\n")
        self.status = "succeeded"
        await stream.write_eof()
        return stream


@pytest.mark.anyio
@pytest.mark.parametrize("mode", list(MODES))
async def test_every_mode_sees_its_job_end(mode: str) -> None:
    import aiohttp

    platform = Platform()
    app = web.Application()
    app.router.add_post("/v1/jobs", platform.submit)
    app.router.add_post("/v1/images/generations", platform.submit)
    app.router.add_get("/v1/jobs/{id}", platform.read)
    app.router.add_get("/v1/jobs/{id}/events", platform.events)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(20):
            caller = Caller(session, url, {"a": "dk_x"}, poll_s=0.01)
            hooks = await generator._listen(caller, Target(url, {}))
            progress = Progress()
            await MODES[mode](caller, PLANNED, progress)
            assert progress.job["status"] == "succeeded"
            refused = Planned(1, 0.0, mode, "", "a", {"prompt": "refused"})
            with pytest.raises(Refused, match="503 queue_full"):
                await MODES[mode](caller, refused, Progress())
            await hooks.cleanup()
    finally:
        await runner.cleanup()
    assert platform.seen[0][3] == "Bearer dk_x"
    reads = [path for method, path, *_ in platform.seen if method == "GET"]
    assert any(path.endswith("/events") for path in reads) is (mode == "sse")
    if mode == "openai":
        assert platform.seen[0][2]["size"] == "64x32"
        assert not reads
    else:
        assert progress.job_id == json.loads(BODY)["id"]


def test_a_job_that_is_gone_or_ended_otherwise_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(job_id: str, status: str) -> Sample:
        return Sample(0, 0, 1, "wait", "", "public", status, job_id, status)

    def answer(request: httpx.Request) -> httpx.Response:
        name = request.url.path.rpartition("/")[2]
        status = {"done": "succeeded", "other": "failed", "runs": "running"}.get(name)
        return httpx.Response(200, json={"status": status}) if status else httpx.Response(404)

    client = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **rest: client(transport=httpx.MockTransport(answer), **rest))
    samples = [told("done", "succeeded"), told("other", "succeeded"), told("gone", "succeeded")]
    samples += [told("runs", "running"), Sample(0, 0, 1, "wait", "", "public", "queue_full")]
    found = audit.audit(Target("http://x", {}), samples, settle_s=0)
    assert (found.accepted, found.lost, found.unsettled) == (4, 2, 1)


def test_the_command_reports_and_compares_itself_with_a_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against the constant server: its cached answers were accepted by nobody, but it knows every job."""
    old, new, page = tmp_path / "old.json", tmp_path / "new.json", tmp_path / "new.html"
    with constant_server() as url:
        common = ["bench", "--server", url, "--rate", "40", "--duration", "3", "--no-ceiling", "--no-bar"]
        monkeypatch.setattr("sys.argv", [*common, "--json", str(old)])
        assert command.main() == 0
        slow = json.loads(old.read_text())
        slow["samples"]["latency_s"] = [value / 10 for value in slow["samples"]["latency_s"]]
        old.write_text(json.dumps(slow))
        monkeypatch.setattr(
            "sys.argv", [*common, "--json", str(new), "--html", str(page), "--baseline", str(old)]
        )
        assert command.main() == outcome.REGRESSED
    report = json.loads(new.read_text())
    assert report["figures"]["lost"] == 0
    assert report["figures"]["error_share"] == 0
    assert report["summary"].startswith("load: ")
    assert "<svg" in page.read_text()
    assert "WORSE" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["bench", "--mode", "pigeon"])
    assert command.main() == outcome.ARGUMENTS


def test_a_server_that_is_away_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{process.free_port()}"
    monkeypatch.setattr("sys.argv", ["bench", "--quick", "--server", url])
    assert command.main() == outcome.NO_ANSWER
    said = capsys.readouterr()
    assert said.err == f"{url} does not answer: ConnectError.\n"
    assert said.out == ""


class Refusing(BaseHTTPRequestHandler):
    """Refuses one job in `EVERY`, and has drawn the others before they are asked for."""

    protocol_version = "HTTP/1.1"
    every = 1
    number = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        cls = type(self)
        cls.number += 1
        if cls.number % cls.every == 0:
            self._answer(503, {"error": {"code": "overloaded", "message": ""}})
        else:
            self._answer(200, {"id": "job_1", "status": "succeeded", "cache": "hit"})

    def do_GET(self) -> None:
        self._answer(200, {"id": "job_1", "status": "succeeded", "cache": "hit", "data": []})

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.mark.parametrize(
    ("every", "code"), [(1, outcome.NO_ANSWER), (3, outcome.ERRORS), (10_000, outcome.WELL)]
)
def test_the_command_ends_by_what_happened_and_says_errors_first(
    every: int,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    handler = type("Handler", (Refusing,), {"every": every})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    out, page = tmp_path / "out.json", tmp_path / "out.html"
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(
        "sys.argv",
        [
            *["bench", "--rate", "30", "--duration", "2", "--no-ceiling"],
            "--server",
            url,
            "--json",
            str(out),
            "--html",
            str(page),
        ],
    )
    try:
        assert command.main() == code
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    said = capsys.readouterr().out
    line = said.splitlines()[-1]
    assert "nan" not in line.lower()
    assert "NaN" not in out.read_text()
    assert "Infinity" not in out.read_text()
    report = json.loads(out.read_text())
    if code == outcome.WELL:
        assert "no errors" in line
    else:
        share = report["figures"]["error_share"]
        assert line.startswith(
            f"load: {share:.2%} ERRORS: {report['config']['errors']['overloaded']} overloaded; "
        )
        assert share == pytest.approx(1 / every, abs=0.05)
        tables = page.read_text()
        assert tables.index("<h2>errors</h2>") < tables.index("<h2>milliseconds")

"""The comparison with other servers: its load, its arithmetic, and that every peer is wholly there."""

from __future__ import annotations

import io
import itertools
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.lib.saturate import saturate
from benchmarks.peer_apps import comparison, environments, figures, loads, servers
from benchmarks.peer_apps.loads import Latencies, Server
from benchmarks.peer_apps.servers import PLATFORM

ROOT = Path(__file__).parents[2]


def png(side: int, level: int) -> bytes:
    """A square picture of one grey."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (level, level, level)).save(file, "PNG")
    return file.getvalue()


PICTURE = png(4, 0)


@pytest.fixture
def stub() -> Iterator[ThreadingHTTPServer]:
    """A server that answers every fourth request with 503, and all others with a picture."""
    count = itertools.count(1)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            full = next(count) % 4 == 0
            body = b"full" if full else PICTURE
            self.send_response(503 if full else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

    with Quiet(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_open_load_counts_what_was_refused_and_loses_nothing(stub: ThreadingHTTPServer) -> None:
    server = Server("stub", stub.server_address[1], loads.posting("/draw"))
    taken = loads.offer(server, [number / 1000 for number in range(40)])
    assert (len(taken.answered_s), taken.failed) == (30, 10)
    assert all(0 < each < loads.TIMEOUT_S for each in taken.answered_s)


def test_latency_counts_from_when_a_request_was_due(stub: ThreadingHTTPServer) -> None:
    server = Server("stub", stub.server_address[1], loads.posting("/draw"))
    # Due half a second before the load began: a client that is late must not flatter the server.
    taken = loads.offer(server, [-0.5])
    assert taken.answered_s[0] >= 0.5


def test_saturation_counts_only_pictures(stub: ThreadingHTTPServer) -> None:
    server = Server("stub", stub.server_address[1], loads.posting("/draw"))
    taken = saturate(server.connect, server.next, 0.2, clients=2)
    assert 0 < taken.rate <= taken.drawn / 0.2
    assert taken.failed == pytest.approx(taken.drawn / 3, abs=2)


def test_a_server_that_is_not_there_is_a_failure_not_a_crash(stub: ThreadingHTTPServer) -> None:
    taken = loads.offer(Server("none", 1, loads.posting("/draw")), [0.0])
    assert taken == Latencies((), 1)


def test_failures_count_as_the_slowest() -> None:
    taken = Latencies(tuple(number / 100 for number in range(97)), failed=3)
    assert taken.quantile_ms(0.5) == pytest.approx(500)
    assert taken.quantile_ms(0.99) == 1000 * loads.TIMEOUT_S
    assert taken.within(0.48) == pytest.approx(0.49)


def sample(rate: float, latency_s: float) -> comparison.Sample:
    offered = dict.fromkeys(comparison.SHARES, Latencies((latency_s,) * 10, 0))
    return comparison.Sample(rate, 0, 20.0, 5.0, offered)


def test_the_best_peer_is_chosen_for_each_figure_apart(tmp_path: Path) -> None:
    found = comparison.Comparison(["mosec", "ray"], 1.0, tmp_path)
    found.capacity = 40.0
    found.samples = {
        PLATFORM: [sample(42, 0.2), sample(38, 0.2)],
        comparison.AGAIN: [sample(38, 0.2), sample(42, 0.2)],
        "mosec": [sample(40, 0.4), sample(40, 0.4)],
        "ray": [sample(20, 0.25), sample(20, 0.25)],
    }
    told = figures.figures_of(found)
    assert told["throughput_over_best_peer"] == pytest.approx(1.0)
    assert told["throughput_over_ray"] == pytest.approx(2.0)
    assert told["p99_over_best_peer"] == pytest.approx(0.8)
    assert told["p99_over_mosec"] == pytest.approx(0.5)
    assert told["slo_ms"] == pytest.approx(500)
    assert told["goodput_mosec_at_80"] == 1.0
    assert told["control_p99_ratio"] == 1.0


def test_other_pictures_are_seen() -> None:
    others = (PICTURE, png(4, 1), png(2, 0), b"full")
    assert [comparison.difference(PICTURE, each) for each in others] == [0, 1, 255, 255]


def test_every_peer_has_packages_an_application_and_windows() -> None:
    names = set(servers.PEERS)
    assert names == set(environments.PEERS) == set(comparison.WINDOWS_MS)
    for name in names:
        assert (ROOT / "benchmarks" / "peer_apps" / f"{name}_app.py").is_file()


def test_what_cannot_be_installed_says_why() -> None:
    with pytest.raises(environments.NotInstalled, match="No module named nothing_of_this_name"):
        environments._run([sys.executable, "-m", "nothing_of_this_name"])

"""What benchmarks share: platforms are started in one place, arms take turns in fair orders, cores are kept apart."""

from __future__ import annotations

import ast
import http.client
import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from benchmarks.lib.asking import Unanswered, connect, draw, fresh, submit
from benchmarks.lib.backlog import ends, fill, sizes, waiting
from benchmarks.lib.orders import orders
from benchmarks.lib.percentiles import percentile
from benchmarks.lib.platform import FAKE, Platform, served
from benchmarks.lib.ratios import control, means, ratios
from benchmarks.lib.saturate import draw_rate, saturate
from cli.services.redis import RedisServer
from contracts.tenancy import new_token

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LIMIT = 120
OTHERS = {"report.py", "make_checkpoint.py", "arguments.py", "rivals.py"}
"""Not scripts that measure."""
UNDER_WORK = {"fidelity.py"}


def names_in(path: Path) -> set[str]:
    """Every name that a module imports or uses."""
    tree = ast.parse(path.read_text())
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{each.name}" for each in node.names}
    return found


def modules() -> Iterator[Path]:
    return (path for path in sorted(BENCHMARKS.rglob("*.py")) if path.parent.name != "lib")


def test_a_script_is_arms_figures_and_a_plot() -> None:
    scripts = [*BENCHMARKS.glob("*.py"), *BENCHMARKS.glob("*/__main__.py")]
    long = {
        str(path.relative_to(BENCHMARKS)): length
        for path in scripts
        if path.name not in OTHERS | UNDER_WORK and (length := len(path.read_text().splitlines())) >= LIMIT
    }
    assert long == {}


def test_platforms_are_started_in_one_place() -> None:
    """Other modules do not take the way of the `darkroom` command, and pin nothing."""
    own = {"cli.platform.started", "cli.platform.Platform"}
    found = {path.name: names_in(path) & own for path in modules()}
    assert {name: each for name, each in found.items() if each} == {}
    pinning = {path.name for path in modules() if "sched_setaffinity" in path.read_text()}
    assert pinning == {"model.py"}, "a peer's process pins itself: it runs in an environment of its own"


@pytest.mark.parametrize(("arms", "rounds"), [("ab", 2), ("ab", 6), ("abc", 6), ("abc", 12)])
def test_every_order_comes_equally_often(arms: str, rounds: int) -> None:
    found = list(orders(arms, rounds))
    every = list(itertools.permutations(arms))
    assert {each: found.count(each) for each in every} == dict.fromkeys(every, rounds // len(every))


def test_where_rounds_are_too_few_the_order_is_reversed_each_time() -> None:
    assert list(orders("abc", 3)) == [("a", "b", "c"), ("c", "b", "a"), ("a", "b", "c")]


def test_a_control_is_of_pairs() -> None:
    assert ratios([2, 9], [1, 3]) == [2, 3]
    assert means([1, 3], [3, 5]) == [2, 4]
    assert control([2, 9, 4], [2, 3, 2]) == {"control_ratio": 2, "control_spread": 2}


def test_percentiles_are_those_of_the_median_and_of_twentieths() -> None:
    values = [float(value) for value in range(1, 200)]
    assert (percentile(values, 50), percentile(values, 95), percentile(values, 99)) == (100, 190, 198)


def test_a_backlog_is_sent_by_the_batch() -> None:
    assert sizes(600) == [256, 256, 88]
    assert sizes(256) == [256]


PINNING = """
import json, os, psutil, subprocess, sys
from benchmarks.lib import cores
before = sorted(os.sched_getaffinity(0))
sleep = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
running = [subprocess.Popen(sleep, stdout=subprocess.PIPE) for _ in range(2)]
[each.stdout.readline() for each in running]
cores.isolate([psutil.Process(running[0].pid)])
print(json.dumps([before, *(sorted(os.sched_getaffinity(pid)) for pid in (0, *(each.pid for each in running)))]))
[each.kill() for each in running]
"""


def test_one_process_has_a_core_and_all_else_the_others() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PINNING],
        capture_output=True,
        text=True,
        check=True,
        cwd=BENCHMARKS.parent,
        timeout=60,
    )
    before, me, alone, other = json.loads(done.stdout)
    assert alone == before[-1:]
    assert me == other == before[:-1]


def test_an_error_of_a_client_ends_the_load() -> None:
    """Only an answer that is none is counted; anything else must not lower a rate in silence."""

    def ask(connection: http.client.HTTPConnection) -> None:
        raise ValueError("a mistake of the script")

    with pytest.raises(ValueError, match="a mistake"):
        saturate(lambda: connect("http://127.0.0.1:1"), ask, 0.1, clients=2)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_platform_is_filled_drawn_from_and_gone(tmp_path: Path) -> None:
    keys = {"DARKROOM_ADMIN_KEY": new_token(), "DARKROOM_ALLOW_ANONYMOUS": "true"}
    with Platform.open({**FAKE, **keys}, tmp_path, broker=False) as platform:
        assert platform.broker is None
        running = [platform.process(name) for name in ("api", "worker-1")] + [platform.engine()]
        with closing(connect(platform.url)) as connection:
            took_ms, job = draw(connection, fresh())
            assert (job["status"], job["cache"]) == ("succeeded", "miss")
            assert took_ms > 0
            with pytest.raises(Unanswered):
                draw(connection, fresh("fault:nan"))
            assert submit(connection, fresh("slow=0.1")) > 0
        rate, batches = draw_rate(platform.url, 0.5)
        assert rate > 0
        assert set(batches) <= set(range(1, 9))
        greedy = platform.key("greedy")
        assert fill(platform.url, 300, lambda: fresh("slow=5"), greedy) > 0
        platform.http.headers["Authorization"] = f"Bearer {greedy}"
        assert waiting(platform.http) > 200
        assert ends(platform.http) == []
    _, alive = psutil.wait_procs(running, timeout=10)
    assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []


def test_a_halted_server_is_stopped_too(tmp_path: Path) -> None:
    with served(RedisServer(tmp_path)) as server:
        server.send(signal.SIGSTOP)
    assert not server.alive()

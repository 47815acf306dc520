"""The comparison of two revisions: what it cuts out of the wires, its arithmetic, and that it counts a real platform."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from benchmarks.arms import checkout, figures, monitor, sessions, trips
from benchmarks.arms.checkout import Unavailable
from benchmarks.arms.deployment import EMBEDDED, FAKE, Arm, picture, serving
from benchmarks.arms.figures import Found
from benchmarks.arms.proxy import Exchange, Proxies, proxying
from benchmarks.arms.sessions import Drawn
from benchmarks.arms.trips import Cost, Trips
from benchmarks.arms.wire import ACK, METHOD, Commands, Frame, Frames
from benchmarks.lib.ratios import ratio
from benchmarks.lib.saturate import CLIENTS
from cli.services.redis import RedisServer

SOON_S = 10.0


# wires --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_commands_are_cut_out_however_they_are_split(size: int) -> None:
    data = b"*2\r\n$3\r\nGET\r\n$5\r\na\r\nb\r\n\r\n" + b"*1\r\n$4\r\nPING\r\n"
    data = data.replace(b"$5\r\na\r\nb\r\n\r\n", b"$4\r\na\r\nb\r\n")
    commands = Commands()
    found = [each for at in range(0, len(data), size) for each in commands.feed(data[at : at + size])]
    assert found == [[b"GET", b"a\r\nb"], [b"PING"]]


def test_what_is_no_command_is_said() -> None:
    with pytest.raises(ValueError, match="no command"):
        Commands().feed(b"PING\r\n")


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_frames_are_cut_out_and_heartbeats_left_out(size: int) -> None:
    ack = b"\x01\x00\x01\x00\x00\x00\x0d" + b"\x00\x3c\x00\x50" + bytes(9) + b"\xce"
    body = b"\x03\x00\x01\x00\x00\x00\x02" + b"hi" + b"\xce"
    heartbeat = b"\x08\x00\x00\x00\x00\x00\x00\xce"
    data = b"AMQP\x00\x00\x09\x01" + ack + heartbeat + body
    frames = Frames(client=True)
    found = [each for at in range(0, len(data), size) for each in frames.feed(data[at : at + size])]
    assert found == [Frame(METHOD, ACK), Frame(3)]
    assert Frames(client=False).feed(ack) == [Frame(METHOD, ACK)]


@pytest.fixture
def proxies() -> Iterator[Proxies]:
    with proxying() as running:
        yield running


def test_an_exchange_is_what_is_sent_before_it_is_answered(
    proxies: Proxies, redis_server: RedisServer
) -> None:
    port = proxies.redis(redis_server.port, "api")
    with Redis(port=port) as client, Redis(port=redis_server.port) as beside:
        client.ping()
        begun = len(proxies.record.exchanges)
        client.get("a")
        with client.pipeline(transaction=False) as pipeline:
            pipeline.get("a").get("b").exists("a").execute()
        script = client.register_script("-- Answers one.\nreturn 1")
        for _ in range(2):
            script()
        with client.pubsub() as listener:
            listener.subscribe("news")
            assert listener.get_message(timeout=SOON_S)
            sent = len(proxies.record.exchanges)
            beside.publish("news", "something")
            assert listener.get_message(timeout=SOON_S)
            assert len(proxies.record.exchanges) == sent, "what is pushed was not asked for"
    kinds = [each.kind for each in proxies.record.exchanges[begun:]]
    call = f"api EVALSHA {script.sha[:8]}"
    asked = [each for each in kinds if "CLIENT" not in each and "HELLO" not in each]
    assert asked == ["api GET", "api GET+EXISTS", call, "api SCRIPT", call, call, "api SUBSCRIBE"]
    assert proxies.record.scripts == {script.sha: "-- Answers one.\nreturn 1"}
    assert all(each.answered_at >= each.asked_at for each in proxies.record.exchanges)


def test_one_kind_is_slowed_and_no_other(proxies: Proxies, redis_server: RedisServer) -> None:
    ports = {owner: proxies.redis(redis_server.port, owner) for owner in ("api", "worker")}
    with Redis(port=ports["api"]) as api, Redis(port=ports["worker"]) as worker:
        for client in (api, worker):
            client.ping()
        proxies.record.slowed, proxies.record.slowed_s = "api GET", 0.3
        for client in (api, worker):
            client.get("a")
            client.exists("a")
    taken = {each.kind: each.answered_at - each.asked_at for each in proxies.record.exchanges[-4:]}
    assert [kind for kind, took in taken.items() if took >= 0.3] == ["api GET"]
    assert set(taken) == {"api GET", "api EXISTS", "worker GET", "worker EXISTS"}


# MONITOR --------------------------------------------------------------------------------------------------------------------

SEEN = """+OK
+1700000000.000100 [0 127.0.0.1:5000] "EVALSHA" "ab12cd34" "1" "p:" "job_7" "{\\"a b\\":1}"
+1700000000.000200 [0 lua] "HSET" "p:job:7" "status" ""
+1700000000.000300 [0 127.0.0.1:9999] "INFO" "commandstats"
+1700000000.000400 [0 lua] "NEVER" "ours"
+1700000000.001400 [0 127.0.0.1:5001] "GET" "x"
+1700000000.001500 [0 127.0.0.1:5001] "GET" "y"
+1700000000.002600 [0 127.0.0.1:5000] "PING"
"""


def exchange(owner: str, port: int, *commands: str) -> Exchange:
    return Exchange(owner, port, [command.encode().split() for command in commands], 1.0, 1.1)


def test_commands_are_put_to_the_trips_that_they_came_in() -> None:
    exchanges = [
        exchange("api", 5000, "EVALSHA ab12cd34"),
        exchange("worker", 5001, "GET x", "GET y"),
        exchange("api", 5000, "PING"),
    ]
    found = monitor.trips_of(monitor.lines_of(SEEN), exchanges)
    assert [[line.arguments[0] for line in each.lines] for each in found] == [
        ["EVALSHA", "HSET"],
        ["GET", "GET"],
        ["PING"],
    ]
    text = monitor.page(
        "one", found, {"7": "<job>"}, {"ab12cd34": "submit"}, {exchanges[0].kind, exchanges[2].kind}
    )
    assert text.splitlines() == [
        "one: trips 3, commands 5",
        "",
        "    ms  trip  from    command",
        '   0.0     1  api     EVALSHA submit p: <job> {"a b":1}',
        '              script  HSET p:job:<job> status ""',
        "   1.3     -  worker  GET x",
        "                      GET y",
        "   2.5     2  api     PING",
        "",
        "-: the picture does not wait for it",
    ]


def test_scripts_are_called_by_their_file_or_their_first_words(tmp_path: Path) -> None:
    (tmp_path / "cache" / "lua").mkdir(parents=True)
    (tmp_path / "cache" / "lua" / "submit.lua").write_text("-- Records.\nreturn 1\n")
    shared = "-- Shared.\nlocal P = 1\n"
    scripts = {
        "a": shared + "-- Records.\nreturn 1\n",
        "b": shared + "-- Ends it.\nreturn 2",
        "c": shared + "return 3",
    }
    assert monitor.names_of(scripts, tmp_path) == {"a": "submit", "b": "Ends it."}


# arithmetic ------------------------------------------------------------------------------------------------------------------


def test_an_interval_is_of_the_sign_test() -> None:
    six = ratio([1, 2, 3, 4, 5, 6], [1] * 6)
    assert (six.median, six.low, six.high) == (3.5, 1, 6)
    assert six.covers == pytest.approx(0.96875)
    nine = ratio(range(10, 19), [10] * 9)
    assert (nine.low, nine.high) == (1.1, 1.7)
    assert nine.covers == pytest.approx(0.9609, abs=1e-4)
    three = ratio([2, 9, 4], [2, 3, 2])
    assert (three.median, three.low, three.high, three.covers) == (2, 1, 3, 0.75)
    assert ratio([3], [2]).covers == 0


COST = Cost(0.03, 0.04, 130, 6, 14, 8, {"api GET": 2, "worker SET": 1})


def test_a_trip_is_awaited_if_the_answer_or_the_acknowledgement_is_later() -> None:
    assert trips.trips_of(replace(COST, answered_s=0.14), COST) == 1
    assert trips.trips_of(replace(COST, acked_s=0.26), COST) == 2
    assert trips.trips_of(replace(COST, answered_s=0.029, acked_s=0.06), COST) == 0


def test_the_usual_cost_has_the_quickest_times_and_no_housekeeping() -> None:
    swept = Cost(0.02, 0.09, 300, 23, 31, 8, {"api GET": 1, "api EVALSHA sweep": 17})
    looked_up = Cost(0.04, 0.05, 143, 6, 18, 8, {"api GET": 2, "worker SET": 1, "api HGETALL": 1})
    found = trips.usual_of([looked_up, COST, swept, COST, looked_up, swept, COST])
    assert found == Cost(0.02, 0.04, 130, 6, 14, 8, {"api GET": 2, "worker SET": 1})


def drawn(cpu_ms: float, rate: float) -> Drawn:
    return Drawn(
        100, rate, dict.fromkeys(("api", "worker", "redis", "rabbitmq"), cpu_ms / 4), 0.02, 0.01, 7.5
    )


def test_ratios_are_of_neighbours_and_the_control_of_equal_arms() -> None:
    speeds = {"before": [8.0, 16.0], "now": [4.0, 4.0], "now_again": [4.0, 8.0]}
    samples = {arm: [drawn(ms, 100 / ms) for ms in each] for arm, each in speeds.items()}
    weights = dict.fromkeys(
        ("redis_bytes_queued", "redis_bytes_finished", "api_mb", "worker_mb_fake", f"worker_mb_{EMBEDDED}"),
        10.0,
    )
    new = Trips(replace(COST, commands=40), COST, {"api GET": 2, "worker SET": 1})
    found = Found(
        drawn={FAKE: samples, EMBEDDED: samples},
        submits={"before": [50, 50], "now": [100, 150], "now_again": [100, 100]},
        weighed={"before": dict.fromkeys(weights, 20.0), "now": weights},
        trips={"before": Trips(COST, COST, {"api GET": 12}), "now": new},
    )
    told = figures.figures_of(found)
    assert told["cpu_over_before"] == told["cpu_over_before_embedded"] == pytest.approx((0.5 + 0.25) / 2)
    assert (told["cpu_over_before_low"], told["cpu_over_before_high"]) == (0.25, 0.5)
    assert told["cpu_over_before_control"] == pytest.approx(1.5)
    assert told["submit_rate_over_before"] == pytest.approx(2.5)
    assert (told["awaited_trips"], told["awaited_trips_before"], told["awaited_trips_over_before"]) == (
        3,
        12,
        0.25,
    )
    assert told["redis_commands"] == 40
    assert told["redis_commands_over_before"] == pytest.approx(40 / 130)
    assert told["redis_bytes_queued_over_before"] == told["worker_rss_mb_over_before"] == 0.5
    assert told["device_idle"] == told["device_idle_before"] == 0.02
    assert "redis_commands_over_before_control" not in told, "this tree was counted once"
    assert ["redis_commands", "130", "40", ""] in figures.tables_of(told, found)["counted and weighed"]
    found.weighed["now_again"], found.trips["now_again"] = weights, new
    assert figures.figures_of(found)["redis_commands_over_before_control"] == 1


# checkouts -------------------------------------------------------------------------------------------------------------------


PROJECT = """[project]
dependencies = ["Needed_there>=1", "redis[hiredis]", "httpx"]
[project.optional-dependencies]
worker = ["torch", "also-needed"]
embedded = ["darkroom[worker]"]
gpu = ["nvidia-something"]
"""


def test_only_what_differs_is_installed() -> None:
    here = checkout._installed("redis")
    absent = "needed-there==1.0\nalso_needed==2\nnvidia-something==3\ntriton-of-another-machine==1\n"
    pins = f"# pins\nredis=={here}\nhttpx==0.0.1\npsutil==0.1\n{absent}"
    assert checkout.differing(pins, PROJECT) == [
        "httpx==0.0.1",
        "psutil==0.1",
        "needed-there==1.0",
        "also_needed==2",
    ]


@pytest.mark.slow
def test_a_revision_runs_its_own_code_on_the_packages_of_this_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    (repository / "api").mkdir(parents=True)
    (repository / "api" / "__init__.py").write_text("AGE = 'old'\n")
    (repository / "constraints.txt").write_text(f"redis=={checkout._installed('redis')}\n")
    (repository / "pyproject.toml").write_text(PROJECT.replace("Needed_there>=1", "redis"))
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(repository)]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "old"], ["tag", "old"]):
        subprocess.run([*git, *command], check=True)
    (repository / "api" / "__init__.py").write_text("AGE = 'new'\n")
    monkeypatch.setattr(checkout, "ROOT", repository)
    monkeypatch.setattr(checkout, "FOLDER", repository / ".cache" / "generations")
    tree = checkout.tree_of("old")
    assert tree == checkout.tree_of("old")
    assert tree.own_packages == ()

    def run(code: str, path: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "PYTHONPATH": path}
        command = [str(tree.python), "-c", code]
        return subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert run("import api, redis; print(api.AGE)", str(tree.folder)).stdout == "old\n"
    assert "No module named 'api'" in run("import api", "").stderr, "this checkout is not seen from there"
    with pytest.raises(Unavailable, match="no revision never"):
        checkout.tree_of("never")


# a real platform --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arm]:
    made = Arm("now", checkout.here(), tmp_path_factory.mktemp("arm"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_picture_is_counted_and_shown(arm: Arm) -> None:
    with trips.quiet([arm]) as [platform]:
        found = trips.count(platform, pictures=5, alone=1, tries=1)
        scenes = monitor._scenes(platform)
        cold, hit, joined = (monitor._page_of(scene, platform, set(), found.awaited) for scene in scenes)
    usual = found.usual
    assert 1 <= found.total <= sum(usual.kinds.values())
    assert all(times <= usual.kinds[kind] for kind, times in found.awaited.items())
    assert {kind.partition(" ")[0] for kind in found.awaited} == {"api", "worker"}
    assert usual.commands >= usual.exchanges >= usual.scripts > 0
    assert usual.frames >= 8, "a publish and a delivery are three frames each, and each is acknowledged"
    assert found.alone.commands >= usual.scripts
    for page in (cold, hit, joined):
        assert "<job>" in page
    assert "<leader>" in joined
    assert " worker " in cold
    assert " api " in hit


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_session_tells_what_every_part_used(arm: Arm) -> None:
    with serving([arm]), serving([arm], FAKE):
        held = sessions.redis_bytes([arm], 64, lambda: picture(FAKE), "succeeded", settle_s=1.0)
        found = sessions.draw(arm, FAKE, 1.0)
        assert arm.worker.engine.is_running()
    assert 500 < held["now"] < 20_000
    assert found.pictures >= CLIENTS
    assert set(found.cpu_ms) == {"api", "worker", "redis", "rabbitmq"}
    assert all(0 <= used < 1000 for used in found.cpu_ms.values())
    assert found.total_ms > 0.5
    assert 0 < found.device_idle < 1
    assert 0 < found.core_idle < 1
    assert 1 <= found.images_per_pass <= 8

"""The capacity plan: traffic, the fleet on the real scheduler, the autoscaler's rule, the bound and the figures."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.load import corpus
from benchmarks.plan import __main__ as command
from benchmarks.plan import bound, devices, levers, summary
from benchmarks.plan.autoscaler import Autoscaler, Rule
from benchmarks.plan.devices import Device
from benchmarks.plan.fleet import Simulation
from benchmarks.plan.state import Config
from benchmarks.plan.summary import Service
from benchmarks.plan.traffic import leaders, traffic, zipf_exponent

DEVICE = Device("test", 0.05, 0.04, price=2.0, spot_price=0.5)


def poisson(rate: float, seconds: float, seed: int = 1) -> list[float]:
    rng = np.random.default_rng(seed)
    return [float(time) for time in np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds)))]


def leaders_slowly(ranks: list[int], times: list[float], ttl_s: float) -> list[int]:
    drew: dict[int, int] = {}
    found = []
    for index, (rank, time) in enumerate(zip(ranks, times, strict=True)):
        if rank not in drew or time > times[drew[rank]] + ttl_s:
            drew[rank] = index
        found.append(drew[rank])
    return found


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 100)), min_size=1, max_size=60), st.integers(0, 40)
)
def test_who_draws_is_as_in_a_cache_walked_request_by_request(
    requests: list[tuple[int, int]], ttl_s: int
) -> None:
    times = sorted(float(time) for _, time in requests)
    ranks = [rank for rank, _ in requests]
    found = leaders(np.asarray(ranks), np.asarray(times), float(ttl_s))
    assert found.tolist() == leaders_slowly(ranks, times, float(ttl_s))


def test_the_exponent_in_bins_is_the_exact_one() -> None:
    for share in (0.1, 0.3, 0.5):
        assert zipf_exponent(share, 50_000, 50_000) == pytest.approx(
            corpus.exponent_for(share, 50_000, 50_000), abs=0.01
        )


def test_a_day_follows_its_hours_and_its_cache_is_warm() -> None:
    rng = np.random.default_rng(1)
    day = traffic(200_000, 86_400, 0.3, 86_400, rng)
    assert len(day.times) == pytest.approx(200_000, rel=0.02)
    counts, _ = np.histogram(day.times, 24)
    assert counts.max() / counts.min() == pytest.approx(3, rel=0.2)
    computed = day.computed
    # What was drawn the day before is not drawn again, so fewer than 70 % are; evenly, since it is warm from the start.
    assert 0.4 < len(computed) / 200_000 < 0.6
    morning, evening = np.searchsorted(day.times[computed], [43_200, 86_400])
    ratio = (evening - morning) / morning * counts[:12].sum() / counts[12:].sum()
    assert ratio == pytest.approx(1, abs=0.1)
    cold = traffic(1000, 86_400, 0.0, 86_400, rng)
    assert len(cold.computed) == len(cold.times)


def test_more_than_fits_in_memory_is_drawn_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    few = traffic(50_000, 86_400, 0.3, 86_400, np.random.default_rng(1))
    monkeypatch.setattr("benchmarks.plan.traffic.EXACT", 50_000)
    many = traffic(100_000, 86_400, 0.3, 86_400, np.random.default_rng(1))
    share = len(few.computed) / len(few.times)
    assert len(many.computed) / len(many.times) == pytest.approx(share, abs=0.02)
    assert set(many.leader.tolist()) == {-1, *many.computed.tolist()}


def test_one_worker_is_the_queue_that_theory_knows() -> None:
    """M/D/1 at 0.6 of capacity: the mean wait is s rho / (2 (1 - rho)) (Pollaczek and Khinchine)."""
    device = Device("md1", 0.0, 0.1)
    times = poisson(6.0, 10_000)
    config = Config(device, max_batch=1, ttl_s=math.inf)
    outcome = Simulation(times, config, np.random.default_rng(1)).run()
    latency = np.asarray(outcome.ended) - np.asarray(times)
    assert latency.mean() == pytest.approx(0.1 + 0.1 * 0.6 / (2 * 0.4), rel=0.05)
    assert outcome.batches == {1: len(times)}
    assert outcome.busy_s == pytest.approx(0.1 * len(times))


def test_batches_fill_with_the_load_and_nothing_is_lost() -> None:
    mean = []
    for rate in (2.0, 12.0, 20.0):
        times = poisson(rate, 500)
        outcome = Simulation(times, Config(DEVICE, 8), np.random.default_rng(1)).run()
        assert not np.isnan(outcome.ended).any()
        images = sum(size * count for size, count in outcome.batches.items())
        assert images == len(times)
        assert max(outcome.batches) <= 8
        mean.append(images / sum(outcome.batches.values()))
    assert mean == sorted(mean)
    assert mean[0] < 1.3
    assert mean[2] > 4


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32), st.floats(1, 60), st.floats(0, 1), st.integers(1, 3))
def test_no_job_is_lost_or_drawn_twice_whatever_happens_to_the_workers(
    seed: int, rate: float, spot: float, steps: int
) -> None:
    """Crashes, spot devices taken back, scaling up and down, jobs of several steps."""
    rng = np.random.default_rng(seed)
    times = poisson(rate, 150, seed)
    wanted = rng.integers(1, steps + 1, len(times)).tolist()
    rule = Rule(utilisation=0.8, down_window_s=30)
    config = Config(
        DEVICE,
        4,
        rule,
        start=1,
        start_up_s=20,
        life_s=60,
        spot_share=spot,
        spot_life_s=40,
        lease_s=5,
        ttl_s=math.inf,
    )
    outcome = Simulation(times, config, rng, wanted).run()
    assert not np.isnan(outcome.ended).any()
    assert (np.asarray(outcome.ended) >= np.asarray(times)).all()
    passes = sum(size * count for size, count in outcome.batches.items())
    assert passes >= sum(wanted)
    if not outcome.crashes:
        assert passes == sum(wanted)
    assert outcome.spot_hours <= outcome.hours
    assert outcome.hours * 3600 >= outcome.busy_s - 1e-6 or outcome.crashes


def test_what_cannot_end_in_time_expires_unrun() -> None:
    times = [0.0] * 100
    outcome = Simulation(times, Config(DEVICE, 4, ttl_s=1.0), np.random.default_rng(1)).run()
    latency = np.asarray(outcome.ended)
    assert np.isnan(latency).any()
    assert np.nanmax(latency) <= 1.0 + DEVICE.seconds(4)
    assert (~np.isnan(latency)).sum() >= 4 * 4


def test_a_fleet_grows_before_the_day_and_shrinks_after_it() -> None:
    day = traffic(4_000_000, 7_200, 0.0, 1, np.random.default_rng(1), swing=0.9)
    outcome = Simulation(
        day.times.tolist(), Config(DEVICE, 8, Rule(), start=3), np.random.default_rng(1)
    ).run()
    workers = [tick.workers for tick in outcome.ticks]
    assert max(workers) > min(workers)
    latency = np.asarray(outcome.ended) - day.times
    assert np.mean(latency < 2) > 0.98
    least = bound.clairvoyant_hours(day.times, DEVICE.per_image_s(8), 2.0, 7_200)
    assert 1 <= outcome.hours / least < 1.4
    assert least >= bound.fluid_hours(len(day.times), DEVICE.per_image_s(8))


def test_the_rule_is_kedas() -> None:
    scaler = Autoscaler(Rule(utilisation=0.5, drain_s=10, tolerance=0.1, down_window_s=60, most_up=1.0))
    assert scaler.desired(0, 2, 1.05, 0) == 2, "within the tolerance"
    assert scaler.desired(15, 2, 1.4, 0) == 3, "the ceiling of load over target"
    assert scaler.desired(30, 3, 1.4, 30) == 3 + 4, "with the backlog 9 are wanted, 4 may be added at once"
    assert scaler.desired(45, 7, 0.1, 0) == 7, "the highest wish of the window holds"
    assert scaler.desired(95, 7, 0.1, 0) == 1
    assert Autoscaler(Rule(least=2)).desired(0, 5, 0, 0) == 2
    assert Autoscaler(Rule(most=3)).desired(0, 1, 50, 0) == 3


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1000)), min_size=1, max_size=30))
def test_the_rule_stays_within_its_bounds(seen: list[tuple[float, float]]) -> None:
    scaler, fleet = Autoscaler(Rule(least=1, most=40)), 1
    for poll, (load, backlog_s) in enumerate(seen):
        fleet = scaler.desired(15.0 * poll, fleet, load, backlog_s)
        assert 1 <= fleet <= 40


def test_the_bound_counts_whole_devices_for_whole_minutes() -> None:
    times = np.asarray([1.0] * 10 + [61.0] * 10 + [119.5] * 1000)
    assert bound.clairvoyant_hours(times, 0.1, 2.0, 120) == pytest.approx(
        max(2 / 60, bound.fluid_hours(1020, 0.1))
    )
    assert bound.clairvoyant_hours(times[:20], 10.0, 2.0, 120) == pytest.approx(4 / 60)


def test_followers_wait_for_their_leader_and_hits_do_not() -> None:
    from array import array

    from benchmarks.plan.state import Outcome
    from benchmarks.plan.traffic import Traffic

    comes = Traffic(np.asarray([0.0, 0.5, 5.0, 6.0]), np.asarray([0, 0, 0, -1]))
    every, own = summary.latencies(comes, Outcome(array("d", [1.0])), Service(added_s=0.1, hit_s=0.01))
    assert every.tolist() == pytest.approx([1.1, 0.6, 0.01, 0.01])
    assert own.tolist() == pytest.approx([1.1])
    lost, _ = summary.latencies(comes, Outcome(array("d", [math.nan])), Service())
    assert lost[0] == lost[1] == math.inf


def test_levers_replay_what_the_simulation_finds() -> None:
    day = traffic(4_000_000, 7_200, 0.3, 86_400, np.random.default_rng(1), swing=0.9)
    rule = Rule()
    computed = day.times[day.computed]
    outcome = Simulation(computed.tolist(), Config(DEVICE, 8, rule, start=2), np.random.default_rng(1)).run()
    found = {each.name: each for each in levers.levers(day, DEVICE, 8, rule, 90, 7_200, 0.3)}
    assert found["the plan, by this estimate"].hours == pytest.approx(outcome.hours, rel=0.1)
    for name, lever in found.items():
        if name.startswith("without"):
            assert lever.factor >= 1, name
        elif name.startswith("with "):
            assert lever.factor <= 1, name
    assert found["without batching"].factor > 1.3
    assert found["without cache and single-flight"].hours >= found["without the cache"].hours


def test_requests_in_flight_are_joined_without_a_cache() -> None:
    from benchmarks.plan.traffic import Traffic

    comes = Traffic(np.asarray([0.0, 0.1, 0.2, 5.0]), np.asarray([0, 0, 2, 0]))
    assert levers.in_flight_apart(comes, 1.0).tolist() == [0.0, 0.2, 5.0]


def test_devices_come_from_a_file_or_a_report(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    for told in ({"a_s": 0.1, "b_s": 0.2}, {"figures": {"a_s": 0.1, "b_s": 0.2}}):
        path.write_text(json.dumps(told))
        assert devices.measured(path).seconds(3) == pytest.approx(0.7)
    for wrong in ("{}", "[]", "x"):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="a_s and b_s"):
            devices.measured(path)
    assert devices.work(1, tiny_vae=True) == pytest.approx(1 / 3.4, rel=0.05)


def test_the_command_writes_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "plan.json", tmp_path / "plan.html"
    given = ["plan", "--users", "1000", "--hours", "6", "--json", str(out), "--html", str(page)]
    monkeypatch.setattr("sys.argv", given)
    assert command.main() == 0
    report = json.loads(out.read_text())
    figures = report["figures"]
    assert figures["within_slo"] > 0.99
    assert figures["gpu_hours_over_clairvoyant"] >= 1
    assert figures["drawn"] == pytest.approx(figures["computed_share"] * figures["requests"], rel=1e-3)
    assert figures["dollars_per_day"] == pytest.approx(figures["gpu_hours_per_day"] * 1.8, rel=1e-3)
    assert len(report["config"]["by_hour"]) == 6
    assert "<svg" in page.read_text()
    assert "of the clairvoyant bound" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["plan", "--cost", str(tmp_path / "none.json")])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    for few in (["--users", "1"], ["--users", "1e11"]):
        monkeypatch.setattr("sys.argv", ["plan", *few])
        assert command.main() == 2
        assert "--users, --images-per-day and --hours make" in capsys.readouterr().err


def test_the_clock_of_the_simulation_never_goes_back() -> None:
    """Events of every kind, in order: what ended is in the order of the passes."""
    times = poisson(30, 200)
    outcome = Simulation(
        times, Config(DEVICE, 8, Rule(), start=1, life_s=50, start_up_s=10), np.random.default_rng(3)
    ).run()
    ticks = [tick.at_s for tick in outcome.ticks]
    assert ticks == sorted(ticks)
    assert max(Counter(outcome.ended).values()) <= 8 * outcome.most_workers


def test_hours_end_with_the_day_although_nothing_comes_any_more() -> None:
    config = Config(DEVICE, 8, Rule(), life_s=1e6)
    outcome = Simulation([1.0], config, np.random.default_rng(1)).run(3600.0)
    assert outcome.hours == pytest.approx(1.0, abs=0.02)

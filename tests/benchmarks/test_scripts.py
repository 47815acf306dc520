"""Arithmetic of the scripts that measure the platform, on figures that are known."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import depth, report
from benchmarks.load.sample import Sample
from benchmarks.plan import calibration, validating
from benchmarks.plan.calibration import Calibration

ROOT = Path(__file__).parents[2]


def drawn(batch_size: int, batch_ms: float, ended_s: float = 1.0) -> Sample:
    one = Sample(0.0, 0.0, ended_s, "wait", "", "public", "succeeded", cache="miss")
    return dataclasses.replace(one, batch_size=batch_size, batch_ms=batch_ms)


def test_passes_are_told_once_however_many_shared_them() -> None:
    samples = [drawn(4, 200.0)] * 4 + [drawn(1, 90.0), drawn(1, 91.0)]
    assert sorted(calibration.batches(samples)) == [(1, 0.09), (1, 0.091), (4, 0.2)]


def test_a_pass_tells_when_its_images_were_answered() -> None:
    found = calibration.together([drawn(3, 200.0, at) for at in (5.0, 5.4, 5.1)] + [drawn(2, 150.0)])
    ((size, ends),) = found
    assert size == 3
    assert ends == pytest.approx([0.0, 0.1, 0.4])


def test_the_line_goes_through_the_medians() -> None:
    found = [(n, 0.05 + 0.04 * n) for n in (1, 2, 4, 8) for _ in range(5)] + [(2, 3.0)]
    assert calibration.line(found) == pytest.approx((0.05, 0.04))
    assert calibration.line([(2, 0.3)]) == (0.0, 0.15)


def test_what_came_together_is_drawn_together_near_its_place_and_every_value_as_often_as_it_came() -> None:
    run = np.arange(400.0)
    values = np.fromiter(calibration.stretches(run, np.random.default_rng(1)), float, 40_000)
    followed = np.mean(np.isin(np.diff(values), (1, -399)))
    assert followed == pytest.approx(1 - 1 / calibration.STRETCH, abs=0.01)
    assert np.mean(values >= 100) == pytest.approx(0.75, abs=0.03)
    assert len(set(values)) == 400
    away = np.abs((values - np.arange(40_000) + 200) % 400 - 200)
    assert 0.8 * calibration.NEAR < away.max() <= calibration.NEAR


def test_between_passes_is_what_they_do_not_fill() -> None:
    # Passes of two every 0.5 s that take 0.4.
    run = [drawn(2, 400.0 + number / 1000, 0.5 * number) for number in range(1, 200) for _ in range(2)]
    assert calibration.busy(run) == pytest.approx((4.0, 0.1), rel=0.01)


def test_the_simulation_is_told_what_was_measured() -> None:
    spreads = {1: [np.asarray([0.0])], 3: [np.asarray([0.0, 0.02, 0.04])]}
    ways, overheads = np.asarray([[0.003, 0.004]]), np.asarray([0.006])
    known = Calibration(0.0, 0.1, np.ones(1), 0.005, ways, overheads, spreads)
    # Each alone: the overhead, the ways, the batch, and no gap behind the last one.
    assert calibration.simulate([0.0, 10.0, 20.0], known, 8, 1) == pytest.approx([0.113] * 3, abs=1e-6)
    assert known.taken(np.random.default_rng(1))(2) == pytest.approx(0.205)
    # Two that come during a pass share the next one, and are answered one after the other.
    first, *others = calibration.simulate([0.0, 0.02, 0.03], known, 8, 1)
    assert first == pytest.approx(0.113)
    assert sorted(at + took for at, took in zip((0.02, 0.03), others, strict=True)) == pytest.approx(
        [0.006 + 0.007 + 0.105 + 0.2, 0.006 + 0.007 + 0.105 + 0.2 + 0.02]
    )


def round_of(*scales: float) -> validating.Round:
    """A round whose twins found a machine on which everything takes `scales` of its time."""

    def run(size: int, count: int, scale: float = 1.0) -> list[Sample]:
        return [
            dataclasses.replace(
                drawn(size, scale * (50 + 40 * size) + number // size / 1000, 1.0 + number // size),
                at_s=1.0 + number // size - scale * (0.06 + 0.04 * size),
                queued_ms=5.0,
                server_s=scale * (0.06 + 0.04 * size) - 0.002,
            )
            for number in range(count * size)
        ]

    def twins(size: int) -> validating.Twins:
        first, second = (run(size, 30, scale) for scale in scales)
        return first, second

    return validating.Round(run(1, 30), (twins(1), twins(2)))


def test_a_run_is_simulated_with_what_the_others_tell_and_deviates_as_its_twin() -> None:
    rounds = [round_of(1.0, 1.0), round_of(1.0, 1.0), round_of(1.0, 3.0)]
    slow, quick = validating.calibration_for(rounds, 2, 0, 1), validating.calibration_for(rounds, 2, 0, 0)
    assert slow.b_s == pytest.approx(0.04, rel=0.1), "its own passes took three times as long"
    assert slow.ratios == pytest.approx(1.0, abs=0.2), "its twin's did not"
    assert quick.ratios == pytest.approx(3.0, rel=0.2)
    assert slow.overheads == pytest.approx(0.002)


def test_errors_are_of_twins_the_mean_of_rounds_the_median_and_of_loads_the_worst() -> None:
    def rows(share: float, number: int, *pairs: tuple[float, float]) -> list[dict[str, Any]]:
        same = {"p99_ms": 200.0, "throughput_per_s": 10.0}
        return [
            {
                "share": share,
                "round": number,
                "twin": twin,
                "measured": {"p50_ms": measured, **same},
                "simulated": {"p50_ms": simulated, **same},
                "told": {"a_s": 0.05, "b_s": 0.04, "gap_s": 0.001},
            }
            for twin, (measured, simulated) in enumerate(pairs)
        ]

    # A twin that met a machine of half the speed: 200 told by 100, and 100 by 200.
    found = validating.figures_of(
        [
            *rows(0.5, 0, (100, 220), (200, 110)),
            *rows(0.5, 1, (100, 105), (100, 105)),
            *rows(0.5, 2, (100, 190), (100, 190)),
            *rows(0.8, 0, (100, 80), (110, 88)),
            *rows(0.8, 1, (100, 80), (110, 88)),
            *rows(0.8, 2, (100, 90), (110, 99)),
        ]
    )
    assert found["sim_error_p50"] == pytest.approx(0.2)
    assert found["sim_over_measured_p50_at_0.5"] == pytest.approx(1.1)
    assert found["control_p50"] == pytest.approx(0.1)
    assert found["sim_error_p99"] == found["sim_error_throughput"] == found["control_p99"] == 0
    assert found["b_s"] == 0.04


def test_flat_is_one() -> None:
    arm = [1.0, 2.0, 3.0]
    at = {"a": arm, "b": arm, "take": arm, "fill_per_s": 9.0, "api_mb": 70.0, "worker_mb": 90.0}
    shallow = {**at, "waiting": 1000, "redis_mb": 10.0}
    deep = {**at, "waiting": 101_000, "redis_mb": 210.0, "a": [2.0, 4.0, 6.0], "b": [2.0, 4.0, 6.0]}
    found = depth.figures_of({1000: shallow, 100_000: deep})
    assert found["submit_p50_deep_over_shallow"] == pytest.approx(2)
    assert found["submit_p99_deep_over_shallow"] == pytest.approx(2)
    assert found["worker_mb_deep_over_shallow"] == found["control_ratio"] == 1
    assert found["take_p50_deep_over_shallow"] == 1
    assert found["redis_bytes_per_job"] == pytest.approx(2000)


def test_a_report_holds_its_tables_and_escapes_them(tmp_path: Path) -> None:
    args = report.parser("").parse_args(
        ["--html", str(tmp_path / "a.html"), "--json", str(tmp_path / "a.json")]
    )
    report.publish(args, "x", {}, {"y": 1.23456789}, {}, None, {"a <table>": [["h"], ["<b>"]]}, "in a line")
    page = (tmp_path / "a.html").read_text()
    assert "&lt;b&gt;" in page
    assert "<h2>a &lt;table&gt;</h2>" in page
    assert "in a line" in page
    assert '"y": 1.2346' in (tmp_path / "a.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "option"), [("bench", "--find-capacity"), ("plan", "--images-per-day")])
def test_the_commands_hand_their_arguments_on(name: str, option: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", name, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0
    assert option in done.stdout

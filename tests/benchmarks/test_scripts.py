"""Arithmetic of the scripts that measure the platform, on figures that are known."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import depth, report, validation
from benchmarks.load.sample import Sample
from benchmarks.plan.station import Station
from benchmarks.validation import Calibration

ROOT = Path(__file__).parents[2]


def drawn(batch_size: int, batch_ms: float) -> Sample:
    one = Sample(0.0, 0.0, 1.0, "wait", "", "public", "succeeded", cache="miss")
    return dataclasses.replace(one, batch_size=batch_size, batch_ms=batch_ms)


def test_passes_are_told_once_however_many_shared_them() -> None:
    samples = [drawn(4, 200.0)] * 4 + [drawn(1, 90.0), drawn(1, 91.0)]
    assert sorted(validation.passes(samples)) == [(1, 0.09), (1, 0.091), (4, 0.2)]


def test_the_line_goes_through_the_medians() -> None:
    found = [(n, 0.05 + 0.04 * n) for n in (1, 2, 4, 8) for _ in range(5)] + [(2, 3.0)]
    a, b, ratios = validation.line(found)
    assert a == pytest.approx(0.05)
    assert b == pytest.approx(0.04)
    assert max(ratios) == pytest.approx(3 / 0.13)
    assert validation.line([(2, 0.3)])[:2] == (0.0, 0.15)


def test_the_simulation_is_given_what_was_measured() -> None:
    known = Calibration(0.0, 0.1, (1.0,), Station(0.001, 0.002, 0.003, 0.004, 0.005), 9.0)
    found = validation.simulate([0.0, 10.0, 20.0], known, 30.0, 1)
    # Each alone: the ways in and out, the pass, and no gap behind the last one.
    assert found["p50_ms"] == pytest.approx(110, rel=0.02)
    assert found["throughput_per_s"] == pytest.approx(0.1)
    assert known.taken(np.random.default_rng(1))(2) == pytest.approx(0.205)
    slow = known.of_run([drawn(2, 400.0), drawn(2, 400.0)])
    assert slow.ratios == pytest.approx((2.0,))
    assert slow.taken(np.random.default_rng(1))(2) == pytest.approx(0.405)


def test_errors_are_the_worst_of_all_loads() -> None:
    def row(p50: float) -> dict[str, dict[str, float]]:
        measured = {"p50_ms": 100.0, "p99_ms": 200.0, "throughput_per_s": 10.0}
        return {"measured": measured, "simulated": {**measured, "p50_ms": p50}}

    known = Calibration(0.05, 0.04, (1.0,), Station(0, 0, 0, 0), 9.0)
    control = dict.fromkeys(validation.COMPARED, 0.02)
    found = validation.figures_of([row(110.0), row(80.0)], [control], known)
    assert found["sim_error_p50"] == pytest.approx(0.2)
    assert found["sim_error_p50_mean"] == pytest.approx(0.15)
    assert found["sim_error_p99"] == found["sim_error_throughput"] == 0
    assert found["control_p99"] == 0.02


def test_flat_is_one() -> None:
    at = {"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0], "fill_per_s": 9.0, "api_mb": 70.0, "worker_mb": 90.0}
    found = depth.figures_of({1000: at, 100_000: {**at, "a": [2.0, 4.0, 6.0], "b": [2.0, 4.0, 6.0]}})
    assert found["submit_p50_deep_over_shallow"] == pytest.approx(2)
    assert found["submit_p99_deep_over_shallow"] == pytest.approx(2)
    assert found["worker_mb_deep_over_shallow"] == found["control_ratio"] == 1


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

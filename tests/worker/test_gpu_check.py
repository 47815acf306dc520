"""`make gpu-check` checks itself, on what is here: a way that runs, one that cannot, one that does not fit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.engines.ways import Row, ended, engine_rows, rows_of
from benchmarks.lib.apart import apart
from contracts.failures import OutOfMemory
from contracts.settings import WorkerSettings
from worker.engine.device import Device

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

MODEL = Path(__file__).parents[2] / "models" / "emoji-turbo"
CPU = Device("cpu")


def test_a_way_that_runs_and_one_that_cannot(capsys: pytest.CaptureFixture[str]) -> None:
    settings = WorkerSettings(model=str(MODEL), device="cpu", max_batch=2)
    rows = engine_rows("default", settings, [1, 2], CPU, 0.01)
    assert [(row.way, row.batch, row.reason) for row in rows] == [("default", 1, ""), ("default", 2, "")]
    assert all(row.images_per_s > 0 for row in rows)
    (refused,) = engine_rows("sage", settings.model_copy(update={"attention": "sage"}), [1, 2], CPU, 0.01)
    assert "for CUDA only" in refused.reason
    printed = capsys.readouterr().out
    assert "images/s" in printed
    assert "for CUDA only" in printed


def test_larger_batches_are_not_tried_once_one_does_not_fit() -> None:
    def run(size: int) -> None:
        if size > 2:
            raise OutOfMemory("full")

    rows = rows_of("a way", run, [1, 2, 4, 8], CPU, 0.001)
    assert [row.batch for row in rows] == [1, 2, 4]
    assert rows[-1] == Row("a way", 4, reason="out of memory")


def fails() -> list[Row]:
    raise ValueError("what nobody foresaw")


def dies() -> list[Row]:
    os._exit(7)


def runs() -> list[Row]:
    return [Row("a way", 1, 2.0)]


@pytest.mark.timeout(300)
def test_a_way_that_breaks_or_takes_its_process_along_is_told_and_hides_no_other() -> None:
    (failed,), (died,) = ended("a way", apart(fails)), ended("a way", apart(dies))
    assert failed.broke
    assert "what nobody foresaw" in failed.reason
    assert died.broke
    assert "BrokenProcessPool" in died.reason
    assert ended("a way", apart(runs)) == runs()

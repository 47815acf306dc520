"""The load test's pure parts: when requests come, what they ask for, what the answers come to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.lib import arrivals
from benchmarks.load import __main__ as command
from benchmarks.load import capacity, compare, corpus, measure, options, outcome
from benchmarks.load.capacity import Trial
from benchmarks.load.corpus import Mix
from benchmarks.load.sample import Sample, sample
from benchmarks.load.schedule import Load, schedule
from benchmarks.load.watch import gauges

ROOT = Path(__file__).parents[2]


def made(at_s: float, latency_s: float, outcome: str = "succeeded", **rest: object) -> Sample:
    one = Sample(at_s, at_s, at_s + latency_s, "wait", "default", "public", outcome)
    return dataclasses.replace(one, **{"cache": "miss", **rest})  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["constant", "poisson", "gamma", "diurnal"])
@pytest.mark.parametrize("rate", [0.5, 200.0])
def test_arrivals_ascend_within_the_time_at_the_rate_asked_for(pattern: str, rate: float) -> None:
    rng = np.random.default_rng(3)
    times = arrivals.make(pattern, rate, 1000.0, rng)
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0
    assert times[-1] < 1000
    spread = 5 * (4 * rate * 1000) ** 0.5 if pattern != "constant" else 1
    assert len(times) == pytest.approx(rate * 1000, abs=spread)


def test_gamma_gaps_are_as_bursty_as_asked_for() -> None:
    for burstiness in (0.25, 1.0, 4.0):
        gaps = np.diff(arrivals.gamma(100, 2000, np.random.default_rng(1), burstiness))
        assert np.var(gaps) / np.mean(gaps) ** 2 == pytest.approx(burstiness, rel=0.1)


def test_a_ramp_climbs_and_a_day_has_its_evening() -> None:
    rng = np.random.default_rng(1)
    ramp = arrivals.ramp(100, 100, rng)
    assert len(ramp) == pytest.approx(5000, rel=0.1)
    assert np.sum(ramp < 50) / len(ramp) == pytest.approx(0.25, abs=0.03)
    share = np.linspace(0, 1, 10_000, endpoint=False)
    shape = arrivals.day(share)
    assert shape.mean() == pytest.approx(1, abs=1e-3)
    assert shape.min() > 0
    assert 24 * share[shape.argmin()] == pytest.approx(4.5, abs=0.2)
    assert 24 * share[shape.argmax()] == pytest.approx(19.5, abs=0.2)
    assert shape.max() == pytest.approx(1.5, abs=0.001)


def test_a_trace_is_read_sorted_from_its_beginning_and_stretched(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("seconds,what\n12,b\n10,a\n14,c\n30,d\n")
    assert arrivals.trace(path, 100).tolist() == [0, 2, 4, 20]
    assert arrivals.trace(path, 10).tolist() == [0, 2, 4]
    assert arrivals.trace(path, 100, rate=3.0)[-1] == pytest.approx(1.0)
    path.write_text("nothing\n")
    with pytest.raises(ValueError, match="first column"):
        arrivals.trace(path, 10)
    with pytest.raises(ValueError, match="trace needs its file"):
        arrivals.make("trace", 1, 1, np.random.default_rng(1))


@settings(deadline=None, max_examples=20)
@given(st.floats(0.05, 0.6), st.integers(500, 5000))
@example(0.0625, 3051)  # more than that repeats among 20,000, however popular they are
def test_the_share_of_repeats_is_the_one_asked_for(share: float, count: int) -> None:
    found = corpus.draw(count, 20_000, share, np.random.default_rng(5))
    assert found.expected == pytest.approx(share, abs=0.01)
    assert found.measured == pytest.approx(share, abs=5 / count**0.5)


def test_no_repeats_are_none() -> None:
    assert len(set(corpus.draw(1000, 10, 0.0, np.random.default_rng(1)).ranks.tolist())) == 1000
    load = Load(repeats=0.0, prompts=None)
    bodies = [str(each.body) for each in schedule(load, 100, 60, 0).requests]
    assert len(set(bodies)) == len(bodies)


def test_a_mix_is_drawn_by_weight_and_equal_ranks_get_equal_values() -> None:
    mix = Mix.parse("64x64=3, 128x128=1")
    drawn = mix.draw(10_000, np.random.default_rng(1))
    assert drawn.count("64x64") == pytest.approx(7500, abs=200)
    ranks = np.asarray([1, 2, 1, 3, 2])
    values = mix.draw_for(ranks, np.random.default_rng(1))
    assert values[0] == values[2]
    assert values[1] == values[4]
    for wrong in ("", "a=-1", "a=0"):
        with pytest.raises(ValueError, match="mix"):
            Mix.parse(wrong)


def test_a_schedule_is_the_same_for_the_same_seed_and_new_in_every_epoch() -> None:
    load = Load(
        sizes=Mix.parse("64x64=1,64x32=1"),
        steps=Mix.parse("1=9,4=1"),
        tenants=Mix.parse("a=3,b=1"),
        model="m",
    )
    first = schedule(load, 50, 20, 7)
    assert first.requests == schedule(load, 50, 20, 7).requests
    bodies = {str(each.body) for each in first.requests}
    assert not bodies & {str(each.body) for each in schedule(load, 50, 20, 8).requests}
    one = first.requests[0]
    assert one.body["model"] == "m"
    assert one.body["num_inference_steps"] in (1, 4)
    assert one.body["height"] in (64, 32)
    assert 1 - len(bodies) / len(first.requests) == pytest.approx(first.popularity.measured)


def test_prompts_come_from_a_file_or_are_the_models_own(tmp_path: Path) -> None:
    assert len(corpus.prompts()) == 3300
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\n\n a dog \n")
    assert corpus.prompts(path) == ["a cat", "a dog"]
    path.write_text("\n")
    with pytest.raises(ValueError, match="no prompts"):
        corpus.prompts(path)


def test_latency_counts_from_when_it_was_due() -> None:
    planned = schedule(Load(), 10, 10, 0).requests[0]
    late = sample(planned, planned.at_s + 2, planned.at_s + 3, "succeeded", "job", {"status": "succeeded"})
    assert late.latency_s == pytest.approx(3)
    assert late.lag_s == pytest.approx(2)


def test_figures_count_refusals_against_the_goodput_and_timeouts_in_the_latency() -> None:
    samples = [made(i / 10, 0.1) for i in range(90)]
    samples += [made(9, 0.01, "queue_full", cache=None) for _ in range(5)] + [
        made(9.5, 60.0, "timeout") for _ in range(5)
    ]
    found = measure.figures(samples, 10.0, 1.0, 0.1)
    assert found["within_slo"] == pytest.approx(0.9)
    assert found["error_share"] == pytest.approx(0.1)
    assert found["goodput_per_s"] == pytest.approx(9.0)
    assert found["p50_ms"] == pytest.approx(100)
    assert found["p99_ms"] == pytest.approx(60_000, rel=0.01)
    assert measure.errors(samples) == {"queue_full": 5, "timeout": 5}
    assert measure.bottleneck(found) is None
    assert measure.bottleneck({**found, "generator_cpu_share": 0.99}) is not None
    assert measure.bottleneck({**found, "generator_lag_p99_ms": 50.0}) is not None


def test_batches_are_counted_from_their_images() -> None:
    samples = [made(i, 1, batch_size=4, batch_ms=400.0) for i in range(8)] + [
        made(9, 1, batch_size=1, batch_ms=100.0),
        made(9, 1, batch_size=4, cache="joined"),
    ]
    assert measure.batches(samples) == {1: 1, 4: 2}
    _, busy = measure.device_use(samples, 10, buckets=10)
    assert busy.sum() == pytest.approx(0.9)
    assert measure.figures(samples, 10, 1, 0)["mean_batch"] == pytest.approx(3)


def test_outstanding_rises_and_falls_to_nothing() -> None:
    _, waiting = measure.outstanding([made(0, 10), made(1, 1), made(5, 1)], points=101)
    assert waiting.max() == 2
    assert waiting[-1] == 0


def test_classes_are_told_apart() -> None:
    found = measure.classes([made(0, 1), made(1, 2, cache="hit"), made(2, 3, tenant="b")])
    assert found["cache"]["hit"]["p50"] == pytest.approx(2000)
    assert set(found) == {"cache", "tenant"}


def trial_of(limit: float, generator: float = 1e9) -> Callable[[float], Trial]:
    return lambda rate: Trial(rate, 1.0, 1.0, rate, rate <= limit, rate > generator)


@given(st.floats(0.01, 5000))
def test_the_search_finds_the_limit_from_below(limit: float) -> None:
    found, trials = capacity.search(trial_of(limit), 4.0)
    assert found <= limit
    assert len(trials) == capacity.MAX_TRIALS or found * capacity.CLOSE >= limit


def test_the_search_says_where_the_generator_s_end_was_found() -> None:
    found, trials = capacity.search(trial_of(50, generator=30), 4.0)
    assert found <= 50
    assert capacity.generators_end(trials)
    # Too slow only under far more than the server can do: what is found between is the server's.
    found, trials = capacity.search(trial_of(50, generator=60), 4.0)
    assert any(each.limited for each in trials)
    assert 46 < found <= 50
    assert not capacity.generators_end(trials)
    assert not capacity.generators_end([])


def test_the_search_climbs_faster_while_it_is_easy() -> None:
    def trial(rate: float) -> Trial:
        return Trial(rate, 1.0, 1.0, rate, holds=rate <= 90, easy=rate < 20)

    found, trials = capacity.search(trial, 4.0)
    assert [each.rate for each in trials][:4] == [4, 16, 64, 128]
    assert 90 / capacity.CLOSE <= found <= 90


def test_a_queue_that_grows_does_not_hold_though_all_was_in_time() -> None:
    steady = [made(i / 20, 0.5) for i in range(200)]
    growing = [made(i / 20, 0.1 + 0.05 * i / 20) for i in range(200)]
    for samples, holds in ((steady, True), (growing, False)):
        found = measure.figures(samples, 10, 1.0, 0)
        assert measure.within(samples, 1.0) == 1
        assert capacity.judge(samples, 20, 10, 1.0, found).holds is holds
        assert not capacity.judge(samples, 20, 10, 1.0, found).easy
        assert capacity.judge(samples, 20, 10, 9.0, found).easy


def run_of(scale: float, seed: int) -> compare.Run:
    rng = np.random.default_rng(seed)
    samples = [made(i / 50, float(scale * rng.lognormal(-2, 0.5))) for i in range(3000)]
    return compare.Run.of(measure.columns(samples), 1.0)


def test_a_regression_is_found_and_chance_is_none() -> None:
    assert not any(each.regressed for each in compare.compare(run_of(1, 1), run_of(1, 2)))
    worse = {each.name: each for each in compare.compare(run_of(1, 1), run_of(1.3, 2))}
    assert worse["p50_ms"].regressed
    assert worse["p50_ms"].low < 1.3 < worse["p50_ms"].high
    assert not any(each.regressed for each in compare.compare(run_of(1.3, 1), run_of(1, 2)))
    with pytest.raises(ValueError, match="without requests"):
        compare.compare(run_of(1, 1), compare.Run.of(measure.columns([]), 1.0))


def test_gauges_are_read_and_summed() -> None:
    page = (
        "# TYPE darkroom_waiters gauge\ndarkroom_waiters 3.0\n"
        '# TYPE darkroom_depth gauge\ndarkroom_depth{model="a"} 1.0\ndarkroom_depth{model="b"} 2.0\n'
        "# TYPE darkroom_jobs_total counter\ndarkroom_jobs_total 5.0\n# TYPE darkroom_jobs_created gauge\ndarkroom_jobs_created 1.0\n# TYPE other gauge\nother 1.0\n"
    )
    assert gauges(page) == {"waiters": 3.0, "depth": 3.0}


def test_tenants_and_their_keys_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tenants.json"
    path.write_text('{"a": {"weight": 3, "key": "dk_x"}, "b": {}}')
    mix, keys = options.tenants(path)
    assert mix == Mix(("a", "b"), (3.0, 1.0))
    assert keys == {"a": "dk_x"}
    for wrong in ("[]", '{"a": 3}', '{"a": {"weight": 0}}', "{"):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"must be of the form|positive weight"):
            options.tenants(path)
    monkeypatch.setenv("DARKROOM_API_KEY", "dk_y")
    assert options.tenants(None) == (Mix(("public",), (1.0,)), {"public": "dk_y"})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--mode", "pigeon"], "there is only"),
        (["--arrivals", "trace"], "--trace FILE"),
        (["--sizes", "big"], "--sizes: 'big' is none"),
        (["--steps", "1=3,few=1"], "--steps: 'few' is none"),
        (["--mode", "webhook", "--hook-host", "203.0.113.7"], "assign requested address"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(given: list[str], says: str) -> None:
    args = options.parser("").parse_args(given)
    with pytest.raises((ValueError, OSError), match=says):
        options.load_of(args, Mix(("public",), (1.0,)))


def test_a_search_that_nothing_holds_ends_without_waiting_for_rare_requests() -> None:
    found, trials = capacity.search(lambda rate: capacity.too_few(rate), 4.0)
    assert found == 0.0
    assert not any(each.holds for each in trials)


def figures_of(samples: list[Sample]) -> dict[str, float]:
    return {**measure.figures(samples, 10, 2.0, 0.1), "accepted": len(samples), "lost": 0}


def test_the_summary_says_what_went_wrong_first_and_never_that_nothing_is_a_number() -> None:
    dead = [made(i / 10, 0.01, "ClientConnectorError") for i in range(100)]
    line = outcome.summary(figures_of(dead), 2.0, measure.errors(dead))
    assert line.startswith("load: 100.00% ERRORS: 100 ClientConnectorError; ")
    assert "NOTHING WAS ANSWERED" in line
    assert "nan" not in line
    some = [made(i / 10, 0.1, "succeeded" if i % 3 else "queue_full") for i in range(99)]
    line = outcome.summary(figures_of(some), 2.0, measure.errors(some))
    assert line.startswith("load: 33.33% ERRORS: 33 queue_full; ")
    assert "p50 100 ms" in line
    well = [made(i / 10, 0.1) for i in range(99)]
    assert "no errors" in outcome.summary(figures_of(well), 2.0, {})


@pytest.mark.parametrize(
    ("happened", "code"),
    [
        ({}, outcome.WELL),
        ({"answered": False, "error_share": 1.0}, outcome.NO_ANSWER),
        ({"error_share": 0.34}, outcome.ERRORS),
        ({"error_share": 0.01}, outcome.WELL),
        ({"regressed": True}, outcome.REGRESSED),
        ({"regressed": True, "error_share": 0.34}, outcome.ERRORS),
        ({"lost": True, "answered": False, "error_share": 1.0, "regressed": True}, outcome.LOST),
    ],
)
def test_the_exit_code_is_of_the_gravest(happened: dict[str, Any], code: int) -> None:
    well = {"lost": False, "answered": True, "error_share": 0.0, "max_errors": 0.01, "regressed": False}
    assert outcome.exit_code(**{**well, **happened}) == code


def test_every_exit_code_is_in_the_help_and_in_the_docs() -> None:
    page = (ROOT / "docs" / "capacity.md").read_text()
    help_text = " ".join((command.__doc__ or "").split())
    for code, meaning in outcome.CODES.items():
        assert f"| {code} | {meaning} |" in page
        assert f"{code} {meaning}" in help_text


def test_a_capacity_that_does_not_hold_again_is_lowered_or_said_to_be_unsure() -> None:
    """A server that holds 10 a second for ever, and in the search was lucky at 12."""
    found, again, trials = capacity.confirm(trial_of(10.0), 12.0)
    assert again is False, "12, 11.1 and 10.3 broke"
    assert found < 10 * capacity.CLOSE
    assert [each.holds for each in trials] == [False] * capacity.CONFIRMATIONS
    found, again, trials = capacity.confirm(trial_of(10.0), 10.5)
    assert (again, found) == (True, 10.5 / capacity.CLOSE)
    assert capacity.confirm(trial_of(10.0), 0.0) == (0.0, False, [])


def test_the_capacity_is_told_by_what_its_own_last_run_did() -> None:
    holds, breaks = Trial(7.0, 1.0, 10.0, 7.0, holds=True), Trial(7.0, 0.9, 3000.0, 7.0, holds=False)
    assert outcome.describe_capacity(10.0, True, [], holds) == "capacity 10 req/s, confirmed"
    assert "NOT CONFIRMED: the run at 7 req/s did not hold" in outcome.describe_capacity(
        10.0, True, [], breaks
    )
    assert "NOT CONFIRMED: it broke when" in outcome.describe_capacity(10.0, False, [], holds)
    faster = dataclasses.replace(breaks, rate=20.0)
    assert outcome.describe_capacity(10.0, True, [], faster) == "capacity 10 req/s, confirmed", (
        "it was asked for more"
    )
    assert "NO CAPACITY: not even 7 req/s" in outcome.describe_capacity(0.0, False, [breaks], breaks)


@pytest.mark.parametrize(
    "text", ['"x"', "{}", '{"samples": {"outcome": ["x"], "latency_s": []}, "config": {}}']
)
def test_a_baseline_that_is_none_is_refused_before_the_load(text: str, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(ValueError, match="no report of this load test"):
        options.baseline(tmp_path / "old.json")

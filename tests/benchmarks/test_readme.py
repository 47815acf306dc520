"""The figures of the README are those of the committed results: every row of its table, and what its sentences say."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]

ROWS: Final = {
    "latency that the platform adds to the engine, p50 (RabbitMQ, long poll)": "{latency.added_idle_p50_ms:.1f} ms",
    "a cache hit through HTTP, p50": "{latency.cache_hit_p50_ms:.1f} ms",
    "memory of an idle API process (no torch)": "{latency.api_rss_mb:.0f} MB",
    "memory of an idle worker with its engine": "{latency.worker_rss_mb:.0f} MB",
    "the bare engine's throughput that is left through REST, RabbitMQ, worker and cache, batches of 8": (
        "{batching.platform_over_bare:.2f} (A/A {batching.control_ratio:.2f}, spread {batching.control_spread:.2f})"
    ),
    "the gain from batches of 8 over single images: bare engine, platform": (
        "{batching.batch_gain_bare:.2f}, {batching.batch_gain_platform:.2f}"
    ),
    "goodput at 0.9 of capacity over a clairvoyant bound, worst of 16 scenarios": (
        "{policy.goodput_over_clairvoyant_090:.2f}"
    ),
    "what 10,000 queued jobs of one tenant add to another's p99": "{fairness.added_p99_batches:.1f} batch times",
    "1, 4 and 25 steps mixed: step-level over request-level batching, throughput and p99 of the short jobs": (
        "{steps.step_over_request_throughput:.2f}, {steps.step_over_request_short_p99:.2f}"
    ),
    "cache hits per second over a constant answer of the same size from the same server": (
        "{api.hit_over_constant:.2f} (A/A {api.control_ratio:.2f})"
    ),
    "CPU per picture against Pillow's PNG: our PNG, JPEG": (
        "1/{encode.png_speedup:.0f}, 1/{encode.jpeg_speedup:.0f}"
    ),
    "throughput with confirms, quorum queues, late acks and fences over the same platform without, an engine that takes "
    "no time": (
        "{safety.safety_ratio:.2f} (spread {safety.safety_ratio_spread:.2f}; A/A {safety.control_ratio:.2f}, "
        "spread {safety.control_spread:.2f}): no cost is seen beyond the noise"
    ),
    "the same picture alone and in mixed passes, least PSNR": (
        "{steps.psnr_against_alone_db:.0f} dB (to the bit with `DARKROOM_FIXED_BATCH`)"
    ),
    "things recognised in the embedded model's pictures, top 1 of 330 by an independent judge": (
        "{percent.concept_top1:.1f} %"
    ),
}
"""What stands in the table's second column beside each first one."""

SENTENCES: Final = (
    "throughput {peers.throughput_over_celery:.2f} of celery-batches, the other one with a durable queue",
    "{peers.throughput_over_bentoml:.2f} of BentoML",
    "{peers.throughput_over_ray:.2f} of Ray Serve, {peers.throughput_over_litserve:.2f} of LitServe, "
    "{peers.throughput_over_mosec:.2f} of Mosec",
    "the engine alone draws {gpu_check.default_16:.0f} images of 512 x 512 a second in SD-Turbo's layout, in batches of 16, "
    "where a plain diffusers loop draws {gpu_check.plain_diffusers_16:.0f}",
)


@pytest.fixture(scope="module")
def section() -> str:
    """The README's chapter of figures, in one line a paragraph."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.partition("\n## Figures\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """The figures of each committed result, as attributes; `percent` are those of fidelity times 100."""
    found = {}
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        figures = json.loads(path.read_text())["figures"]
        found[path.stem] = SimpleNamespace(
            **{name.replace(" ", "_"): value for name, value in figures.items()}
        )
    found["percent"] = SimpleNamespace(
        **{name: 100 * value for name, value in vars(found["fidelity"]).items()}
    )
    return found


def test_every_row_is_what_was_measured(section: str, results: dict[str, Any]) -> None:
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    assert {row[0]: row[1] for row in rows} == {
        name: template.format(**results) for name, template in ROWS.items()
    }


@pytest.mark.parametrize("template", SENTENCES)
def test_every_sentence_is_what_was_measured(section: str, results: dict[str, Any], template: str) -> None:
    assert template.format(**results) in " ".join(section.split())


def test_the_cost_of_safety_is_told_with_its_noise(results: dict[str, Any]) -> None:
    """The row's words hold: whatever the guards cost is less than what equal platforms differ by."""
    safety = results["safety"]
    noise = max(safety.safety_ratio_spread, safety.control_spread)
    assert abs(safety.safety_ratio - 1) <= noise

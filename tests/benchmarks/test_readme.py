"""README and docs/figures.md state the committed results: every row of their tables, and what their sentences say."""

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
    "end-to-end throughput as a share of the bare engine's, batches of 8": (
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
    "CPU per image against Pillow's PNG: our PNG, JPEG": (
        "1/{encode.png_speedup:.0f}, 1/{encode.jpeg_speedup:.0f}"
    ),
    "CPU per image beside the drawing, over that of version 0.1.0: engine that takes no time, embedded model": (
        "{generations.cpu_over_before:.2f} (A/A {generations.cpu_over_before_control:.2f}), {generations.cpu_over_before_embedded:.2f} (A/A {generations.cpu_over_before_embedded_control:.2f})"
    ),
    "accepted submits per second of 200 clients over those of version 0.1.0": (
        "{generations.submit_rate_over_before:.1f} (A/A {generations.submit_rate_over_before_control:.2f})"
    ),
    "Redis trips that a computed image waits for, Redis commands; in version 0.1.0": (
        "{generations.awaited_trips:.0f}, {generations.redis_commands:.0f}; {generations.awaited_trips_before:.0f}, {generations.redis_commands_before:.0f}"
    ),
    "share of the drawing core's time between batches at saturation": ("{generations.device_idle:.3f}"),
    "throughput with confirms, quorum queues, late acks and fences over the same platform without them, engine that takes "
    "no time": (
        "{safety.safety_ratio:.2f} (spread {safety.safety_ratio_spread:.2f}; A/A {safety.control_ratio:.2f}, "
        "spread {safety.control_spread:.2f}): no cost is seen beyond the noise"
    ),
    "the same image alone and in mixed batches, least PSNR": (
        "{steps.psnr_against_alone_db:.0f} dB (bit-identical with `DARKROOM_FIXED_BATCH`)"
    ),
    "things recognised in the embedded model's images, top 1 of 330 by an independent judge": (
        "{percent.concept_top1:.1f} %"
    ),
    "disguised banned words that are found, ten kinds of disguise (3,335 prompts)": "{moderation_prompts.words_caught:.4f}",
    "harmless prompts that look alike and are found (of 1,000)": "{moderation_prompts.words_false:.0f}",
    "words: CPU time of a prompt": "{moderation_prompts.words_us:.0f} us",
    "meaning: descriptions of weapons that name no banned word and are found, at the threshold of the training (168 prompts)": "{moderation_prompts.meaning_recall:.3f}",
    "meaning: harmless prompts that are found, a sixth of them descriptions in like words (of 1,413)": "{moderation_prompts.meaning_false:.3f}",
    "meaning: area under the ROC curve": "{moderation_prompts.meaning_auc:.4f}",
    "meaning: CPU time of a prompt": "{moderation_prompts.meaning_cpu_ms:.1f} ms",
    "share of 330 known images found after JPEG of quality 50; half size; mirror; a crop of 10 %; +20 % brightness": "{moderation_pictures.known_jpeg_50:.3f}; {moderation_pictures.known_half_size:.3f}; {moderation_pictures.known_mirror:.3f}; {moderation_pictures.known_crop_10:.3f}; {moderation_pictures.known_brighter_20:.3f}",
    "the same by PDQ alone, among images with enough detail for it": "{moderation_pictures.known_jpeg_50_pdq:.3f}; {moderation_pictures.known_half_size_pdq:.3f}; {moderation_pictures.known_mirror_pdq:.3f}; {moderation_pictures.known_crop_10_pdq:.3f}; {moderation_pictures.known_brighter_20_pdq:.3f}",
    "known images without enough detail for PDQ, share": "{moderation_pictures.known_low_quality_share:.2f}",
    "false matches; pairs of images of different things": "{moderation_pictures.known_false_matches:.0f}; {moderation_pictures.known_pairs:.0f}",
    "look-ups a second in ten million hashes at distance 31, 256 at a time; recall with 0, 16, 31 bits turned": "{moderation_pictures.index_lookups_per_s:.0f}; {moderation_pictures.index_recall_0:.1f}, {moderation_pictures.index_recall_16:.1f}, {moderation_pictures.index_recall_31:.1f}",
    "memory of that index: pages of its file, which processes share; private to each": "{moderation_pictures.index_memory_mb:.0f} MB; {moderation_pictures.index_private_mb:.0f} MB",
    "one image in that index: its hash, mirrored and turned too": "{moderation_pictures.index_picture_ms:.1f} ms",
    "head for `weapons` at a score of 0.5, seeds of no training: recall, false alarms": "{moderation_pictures.head_seeds_recall:.3f}, {moderation_pictures.head_seeds_false_alarms:.3f}",
    "the same, with colours, a layout and words of no training": "{moderation_pictures.head_held_out_recall:.3f}, {moderation_pictures.head_held_out_false_alarms:.3f}",
    "eight PDQ hashes of an image of 64, of 512 pixels; one score of a head": "{moderation_pictures.pdq_64_ms:.2f} ms, {moderation_pictures.pdq_512_ms:.1f} ms; {moderation_pictures.head_ms:.3f} ms",
    "`yahoo-open-nsfw`: preparing an image, the network in float, in int8": "{moderation_pictures.nsfw_prepare_ms:.1f} ms, {moderation_pictures.nsfw_float_ms:.1f} ms, {moderation_pictures.nsfw_int8_ms:.1f} ms",
    "its int8 over its float; largest, mean change of a score; share of verdicts changed at 0.8": "{moderation_pictures.nsfw_int8_over_float:.2f}; {moderation_pictures.nsfw_drift_max:.2f}, {moderation_pictures.nsfw_drift_mean:.3f}; {moderation_pictures.nsfw_verdicts_changed:.3f}",
    "its false alarms at 0.8 on 247 harmless images, share; highest score": "{moderation_pictures.nsfw_false_alarms:.3f}; {moderation_pictures.nsfw_highest_score:.2f}",
    "the same in 2, 4 and 8 steps; in one step from 300 free prompts": (
        "{percent.concept_top1_2:.1f} %, {percent.concept_top1_4:.1f} %, {percent.concept_top1_8:.1f} %; "
        "{percent.free_top1:.0f} %"
    ),
}
"""The tables of docs/figures.md: the second column for each first one."""

MODERATION: Final = {
    "added to the latency of an image of 64 pixels by words, meaning, hashes and picture head: p50, p99": "{moderation_cost.added_moderated_p50_ms:.0f} ms, {moderation_cost.added_moderated_p99_ms:.0f} ms (A/A {moderation_cost.added_control_p50_ms:.0f}, {moderation_cost.added_control_p99_ms:.0f})",
    "the layers alone, one request with one image of 512 pixels: p50, p99": "{moderation_cost.own_large_p50_ms:.0f} ms, {moderation_cost.own_large_p99_ms:.0f} ms",
    "throughput with words, hashes and picture head over that without; A/A": "{moderation_cost.throughput_moderated:.2f}; {moderation_cost.control_ratio:.2f}",
    "the same with the meaning of a new prompt for each image": "{moderation_cost.throughput_moderated_new:.2f}",
    "the layers' own time over the drawing's, 512 pixels in SD-Turbo's layout on one thread": "{moderation_cost.own_over_drawing:.4f}",
    "words: disguised banned words found, ten kinds; harmless prompts refused": "{moderation_prompts.words_caught:.4f}; {moderation_prompts.words_false:.4f}",
    "meaning: descriptions found that name no banned word; harmless prompts refused": "{moderation_prompts.meaning_recall:.3f}; {moderation_prompts.meaning_false:.3f}",
    "picture head: weapons found; false alarms": "{moderation_pictures.head_recall:.3f}; {moderation_pictures.head_false_alarms:.3f}",
    "all layers: share of 2,000 attempts of ten kinds that reach a shown picture of a weapon; without any layer": "{moderation_attempts.shown_weapon_all:.4f}; {moderation_attempts.shown_weapon_none:.2f}",
    "all layers: share of descriptions of weapons that reach one; harmless captions that are not shown": "{moderation_attempts.shown_weapon_described_all:.4f}; {moderation_attempts.harmless_not_shown_all:.3f}",
    "known images found after JPEG 50, half size, mirror, a crop of 10 %, +20 % brightness: the least; false matches": "{moderation_pictures.known_jpeg_50:.3f}; {moderation_pictures.known_false_matches:.0f}",
    "look-ups a second in ten million hashes at distance 31; memory": "{moderation_pictures.index_lookups_per_s:.0f}; {moderation_pictures.index_memory_mb:.0f} MB",
    "classifier in int8 over float: time; share of verdicts changed": "{moderation_pictures.nsfw_int8_over_float:.2f}; {moderation_pictures.nsfw_verdicts_changed:.3f}",
}
"""The table of docs/moderation.md, likewise. What has no committed result is said to be not measured."""

PEERS_ROW: Final = (
    "throughput over celery-batches, the other server with a durable queue; over Mosec, the fastest without one",
    "{peers.throughput_over_celery:.2f}; {peers.throughput_over_mosec:.2f}",
)
"""A row that only the README has: docs/figures.md says it in sentences."""

SENTENCES: Final = (
    "throughput is {peers.throughput_over_celery:.2f} of celery-batches, the other server with a durable queue",
    "It is {peers.throughput_over_bentoml:.2f} of BentoML, {peers.throughput_over_ray:.2f} of Ray Serve, "
    "{peers.throughput_over_litserve:.2f} of LitServe and {peers.throughput_over_mosec:.2f} of Mosec",
    "the engine alone draws {gpu_check.default_16:.0f} images of 512 x 512 a second in SD-Turbo's layout, in batches of 16",
    "A plain diffusers loop draws {gpu_check.plain_diffusers_16:.0f}",
)


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def section() -> str:
    """The README's five figures."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.partition("\n## Five figures\n")[2].partition("\n## ")[0]


def table(text: str) -> dict[str, str]:
    """The rows of all tables in `text`, without their headings: the second column by the first."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1] for row in rows if row != rows[0]}


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


def test_every_row_is_what_was_measured(page: str, results: dict[str, Any]) -> None:
    assert table(page) == {name: template.format(**results) for name, template in ROWS.items()}


def test_every_row_of_moderation_is_what_was_measured_or_says_that_it_was_not(
    results: dict[str, Any],
) -> None:
    text = (ROOT / "docs" / "moderation.md").read_text(encoding="utf-8")
    section = text.partition("\n## Figures\n")[2].partition("\n## ")[0]

    def stated(template: str) -> str:
        try:
            return template.format(**results)
        except (KeyError, AttributeError):
            return "not measured yet"

    assert table(section) == {name: stated(template) for name, template in MODERATION.items()}


def test_the_least_of_the_changes_is_the_one_that_is_stated(results: dict[str, Any]) -> None:
    pictures = results["moderation_pictures"]
    changes = ("jpeg_50", "half_size", "mirror", "crop_10", "brighter_20")
    assert pictures.known_jpeg_50 == min(getattr(pictures, f"known_{name}") for name in changes)


def test_the_readme_has_five_of_them(section: str, results: dict[str, Any]) -> None:
    templates = {**ROWS, PEERS_ROW[0]: PEERS_ROW[1]}
    stated = table(section)
    assert stated == {name: templates[name].format(**results) for name in stated}
    assert len(stated) == 5


def test_the_fastest_server_without_a_durable_queue_is_the_one_that_the_readme_names(
    results: dict[str, Any],
) -> None:
    peers = results["peers"]
    rates = {name: getattr(peers, f"throughput_{name}") for name in ("mosec", "litserve", "ray", "bentoml")}
    assert max(rates, key=lambda name: rates[name]) == "mosec"


@pytest.mark.parametrize("template", SENTENCES)
def test_every_sentence_is_what_was_measured(page: str, results: dict[str, Any], template: str) -> None:
    assert template.format(**results) in " ".join(page.split())


def test_the_cost_of_safety_is_told_with_its_noise(results: dict[str, Any]) -> None:
    """The row's words hold: whatever the guards cost is less than what equal platforms differ by."""
    safety = results["safety"]
    noise = max(safety.safety_ratio_spread, safety.control_spread)
    assert abs(safety.safety_ratio - 1) <= noise

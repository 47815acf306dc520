from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from moderation.judge import open_judge
from moderation.pictures.onnx_model import open_model
from moderation.pictures.preprocessing import Preprocessing
from moderation.pictures.quantise import quantise
from moderation.policy import InvalidPolicy, parse
from tests.moderation import known

LABELS = ("red", "green", "blue")
POLICY = """
name: house
version: 1
pictures: {classifiers: [{model: colours, labels: {red: weapons, blue: weapons}}]}
rules: {weapons: {pictures: block}}
"""
NSFW_POLICY = """
name: house
version: 1
pictures: {classifiers: [{model: yahoo-open-nsfw, labels: {nsfw: sexual}}]}
rules: {sexual: {pictures: {review: 0.8}}}
"""


def write_colours(folder: Path, labels: tuple[str, ...] = LABELS, gain: float = 10.0) -> Path:
    """A classifier that answers the colour of a picture: a convolution, and the mean of each channel."""
    folder.mkdir()
    weights = numpy_helper.from_array((gain * np.eye(3, dtype=np.float32))[..., None, None], "weights")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["pixel_values", "weights"], ["features"]),
            helper.make_node("GlobalAveragePool", ["features"], ["means"]),
            helper.make_node("Flatten", ["means"], ["logits"]),
        ],
        "colours",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(folder / "model.onnx"))
    (folder / "config.json").write_text(json.dumps({"id2label": dict(enumerate(labels))}))
    preprocessor = {
        "do_resize": True,
        "size": {"shortest_edge": 40},
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def plain(colour: tuple[int, int, int]) -> Any:
    return np.full((64, 96, 3), colour, np.uint8)


@pytest.mark.anyio
@pytest.mark.parametrize(("colour", "score"), [((255, 0, 0), 1.0), ((0, 0, 255), 1.0), ((0, 255, 0), 0.0)])
async def test_labels_become_findings_of_their_category(
    colour: tuple[int, int, int], score: float, tmp_path: Path
) -> None:
    write_colours(tmp_path / "colours")
    judge = open_judge(parse(POLICY, "policy", tmp_path))
    look = await judge.look(known.picture(plain(colour)))
    assert look.away == ()
    assert max((each.score for each in look.findings), default=0.0) == pytest.approx(score, abs=0.001)
    for each in look.findings:
        assert (each.layer, each.category) == ("pictures", "weapons")
        assert each.source.startswith("colours@")


def test_pixels_are_prepared_as_transformers_does() -> None:
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    config = {
        "do_resize": True,
        "size": {"height": 48, "width": 40},
        "resample": 2,
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.25],
    }
    rgb = known.pattern(3)
    theirs = ViTImageProcessorPil(**config)(rgb, return_tensors="np")["pixel_values"]
    assert np.abs(Preprocessing.of(config).apply(rgb) - theirs).max() < 1e-5


@pytest.mark.anyio
async def test_a_network_that_answers_no_number_is_away(tmp_path: Path) -> None:
    write_colours(tmp_path / "colours", gain=float("nan"))
    look = await open_judge(parse(POLICY, "policy", tmp_path)).look(known.picture(plain((9, 9, 9))))
    assert (look.findings, look.away) == ((), ("pictures",))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), "has no model.onnx"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"not a network"), "colours cannot be loaded"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "is missing"),
        (lambda folder: (folder / "config.json").write_text("{}"), "cannot be loaded"),
        (
            lambda folder: (folder / "config.json").write_text('{"id2label": {"0": "x"}}'),
            "has no label blue, red",
        ),
    ],
)
def test_a_model_that_cannot_be_used_stops_the_policy(spoil: Any, reason: str, tmp_path: Path) -> None:
    spoil(write_colours(tmp_path / "colours"))
    with pytest.raises(InvalidPolicy, match=reason):
        open_judge(parse(POLICY, "policy", tmp_path))


def test_int8_says_what_float_says(tmp_path: Path) -> None:
    folder = write_colours(tmp_path / "colours", gain=3.0)
    (tmp_path / "pictures").mkdir()
    for seed in range(8):
        (tmp_path / "pictures" / f"{seed}.png").write_bytes(known.png(known.pattern(seed)))
    model, weights = open_model(folder, None)
    quantise(model, weights, tmp_path / "pictures", tmp_path / "int8.onnx")
    small, _ = open_model(folder, tmp_path / "int8.onnx")
    assert small.title != model.title
    for seed in range(20, 30):
        assert np.abs(small.scores(known.pattern(seed)) - model.scores(known.pattern(seed))).max() < 0.03


@pytest.mark.anyio
async def test_the_packaged_model_scores_harmless_pictures_low() -> None:
    judge = open_judge(parse(NSFW_POLICY, "policy"))
    for seed in range(3):
        look = await judge.look(known.picture(known.pattern(seed, 64)))
        assert look.away == ()
        assert all(each.score < 0.8 and each.category == "sexual" for each in look.findings)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.ports.picture_judge import PictureToJudge
from moderation.judge import open_judge
from moderation.pictures.fit import Fitted, TooFewPictures, auc_of, fit, roc_of
from moderation.pictures.head import Floats, HeadFile, PictureHead
from moderation.policy import InvalidPolicy, parse
from tests.moderation import known

CLIP = "some-clip@1"
POLICY = """
name: house
version: 1
pictures: {heads: [{file: weapons.json}]}
rules: {weapons: {pictures: {review: 0.2, block: 0.8}}}
"""


def vectors(count: int, seed: int) -> tuple[Floats, Any]:
    """Vectors of length 1, and whether each is inside a ring: no plane tells them apart."""
    random = np.random.default_rng(seed)
    found = random.normal(size=(count, 16)).astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found, np.abs(found[:, 0]) < 0.15


def picture(vector: Any, clip: str = CLIP) -> PictureToJudge:
    return known.picture(known.pattern(1), embedding=vector.astype("<f2").tobytes(), clip=clip)


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit(*vectors(6_000, 1), "weapons", CLIP, steps=1_500)


def test_a_head_learns_what_no_plane_separates(fitted: Fitted) -> None:
    unseen, labels = vectors(3_000, 2)
    scores = PictureHead(fitted.head, "h").scores(unseen)
    assert auc_of(scores, labels) > 0.98
    assert fitted.auc > 0.98
    assert fitted.head.note.startswith("fitted to ")


def test_its_score_is_a_probability(fitted: Fitted) -> None:
    """Of as many pictures of the category as others, those with a score near p show it in a share p."""
    unseen, labels = vectors(30_000, 3)
    scores = PictureHead(fitted.head, "h").scores(unseen)
    weight = np.where(labels, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))
    for low, high in ((0.0, 0.1), (0.3, 0.7), (0.9, 1.0)):
        some = (scores >= low) & (scores <= high)
        share = (weight * labels)[some].sum() / weight[some].sum()
        assert low - 0.1 <= share <= high + 0.1


def test_the_file_keeps_the_scores(fitted: Fitted) -> None:
    again = HeadFile.model_validate_json(fitted.head.model_dump_json())
    unseen, _ = vectors(100, 4)
    assert np.array_equal(
        PictureHead(again, "h").scores(unseen), PictureHead(fitted.head, "h").scores(unseen)
    )


def test_equal_pictures_make_equal_heads() -> None:
    some = vectors(300, 5)
    first, again = (fit(*some, "weapons", CLIP, steps=50) for _ in range(2))
    assert first.head == again.head


def test_the_threshold_for_a_recall(fitted: Fitted) -> None:
    threshold, recall, alarms = fitted.threshold(0.9)
    assert recall >= 0.9
    assert alarms < 0.2
    assert all(each[1] < 0.9 for each in fitted.roc if each[0] > threshold)


def test_too_few_pictures_are_refused() -> None:
    some, _ = vectors(100, 1)
    with pytest.raises(TooFewPictures, match="there are 5 and 95"):
        fit(some, np.arange(100) < 5, "weapons", CLIP)


def test_roc_and_auc() -> None:
    scores = np.array([0.1, 0.4, 0.35, 0.8], np.float32)
    labels = np.array([False, False, True, True])
    assert auc_of(scores, labels) == 0.75
    assert roc_of(scores, labels)[35] == (0.36, 0.5, 0.5)
    assert auc_of(np.array([0.5, 0.5], np.float32), np.array([True, False])) == 0.5


@pytest.mark.anyio
async def test_a_policy_asks_the_head(fitted: Fitted, tmp_path: Path) -> None:
    (tmp_path / "weapons.json").write_text(fitted.head.model_dump_json())
    judge = open_judge(parse(POLICY, "policy", tmp_path), CLIP)
    unseen, labels = vectors(200, 6)
    for vector, label in zip(unseen[:40], labels[:40], strict=True):
        look = await judge.look(picture(vector))
        score = max((each.score for each in look.findings), default=0.0)
        assert (score > 0.2) == label or 0.05 < score < 0.95
        for each in look.findings:
            assert (each.layer, each.category) == ("pictures", "weapons")
            assert each.source == f"weapons.json on {CLIP}"


@pytest.mark.anyio
@pytest.mark.parametrize("clip", [None, "some-clip@2"])
async def test_a_picture_without_its_embedding_makes_the_layer_away(
    clip: str | None, fitted: Fitted, tmp_path: Path
) -> None:
    (tmp_path / "weapons.json").write_text(fitted.head.model_dump_json())
    judge = open_judge(parse(POLICY, "policy", tmp_path), CLIP)
    shown = known.picture(known.pattern(1)) if clip is None else picture(vectors(1, 1)[0][0], clip)
    look = await judge.look(shown)
    assert (look.findings, look.away) == ((), ("pictures",))


@pytest.mark.parametrize(
    ("change", "clip", "reason"),
    [
        ({}, "some-clip@2", "was trained on embeddings of some-clip@1, and the workers have some-clip@2"),
        ({}, "", "set DARKROOM_CLIP on the workers"),
        ({"category": "violence"}, CLIP, "finds violence, and rules has no entry for it"),
        ({"mean": [0.0]}, CLIP, "its weights are not 1 rows of 256"),
        ({"kind": "prompts"}, CLIP, "is no head on pictures: kind"),
        ({"scale": float("nan")}, CLIP, "scale"),
    ],
)
def test_a_head_that_cannot_be_used_stops_the_policy(
    change: dict[str, Any], clip: str, reason: str, fitted: Fitted, tmp_path: Path
) -> None:
    document = {**fitted.head.model_dump(mode="json"), **change}
    (tmp_path / "weapons.json").write_text(json.dumps(document))
    with pytest.raises(InvalidPolicy, match=reason):
        open_judge(parse(POLICY, "policy", tmp_path), clip)

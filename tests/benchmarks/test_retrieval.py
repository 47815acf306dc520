"""The figures of a search, on vectors and pictures whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.arms import retrieval

CIRCLE = np.array([[np.cos(a), np.sin(a)] for a in np.linspace(0, np.pi, 7)], np.float32)


def test_the_nearest_come_first_and_ties_go_to_the_lower_row() -> None:
    assert retrieval.nearest(CIRCLE[[0, 6]], CIRCLE, 3).tolist() == [[0, 1, 2], [6, 5, 4]]
    equal = np.ones((600, 1), np.float32)
    assert retrieval.nearest(equal, equal, 2).tolist() == [[0, 1]] * 600


@pytest.mark.parametrize(
    ("right", "share"),
    [
        ([1, 1, 1, 0, 0, 0, 0], 1.0),
        ([1, 0, 1, 1, 1, 0, 0], 2 / 3),
        ([0, 0, 0, 1, 1, 1, 1], 0.0),
        ([1, 0, 0, 0, 0, 0, 0], 1.0),  # there is one, and it comes first
        ([0, 1, 0, 0, 0, 0, 0], 0.0),  # there is one, and it comes second
        ([0, 0, 0, 0, 0, 0, 0], 0.0),
    ],
)
def test_precision_is_over_as_many_as_can_be_right(right: list[int], share: float) -> None:
    found = retrieval.nearest(CIRCLE[:1], CIRCLE, 3)
    assert retrieval.precision(found, np.array([right], bool)) == pytest.approx([share])


def test_a_picture_is_found_if_the_answer_cannot_be_told_from_it() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(40, 200, (8, 8, 3), np.uint8)
    near, far = picture + 5, picture + 20  # 34 and 22 dB
    pictures = np.stack([picture, near, far])
    found = retrieval.finds_itself(np.array([0, 1, 2]), np.array([0, 0, 0]), pictures)
    assert found.tolist() == [True, True, False]
    assert retrieval.psnr_db(picture, picture) == float("inf")
    assert retrieval.psnr_db(picture, near) == pytest.approx(34.15, abs=0.01)


def test_pictures_are_altered_as_said() -> None:
    rows, columns = np.mgrid[:64, :64].astype(np.uint8)
    picture = np.stack([rows * 4, columns * 4, rows], -1)
    assert retrieval.cropped(picture).shape == (58, 58, 3)
    assert (retrieval.cropped(picture)[0, 0] == picture[3, 3]).all()
    assert retrieval.halved(picture).shape == (32, 32, 3)
    assert 30 < retrieval.psnr_db(retrieval.as_jpeg(picture), picture) < 60
    assert retrieval.altered(picture).shape == (29, 29, 3)

"""The hashes are those of the reference: `pdqhash` 0.2.8 made those below. A last digit may tip one bit on another processor."""

from __future__ import annotations

import numpy as np
import pytest

from moderation.hashes.pdq import Rgb, hash_of, hashes_of
from tests.moderation import known

SHAPES = [(128, 128), (512, 512), (100, 100), (77, 77), (513, 400), (200, 300), (40, 40), (64, 64), (64, 200)]
REFERENCE = {
    (128, 128): ("92a322cf549c933034b7eda8956a2655dc973b24cee83912ee6539c9c233b9ce", 100),
    (512, 512): ("94a52d25596d924964c9c999131b66338c7338e3e1c7078e3e1ee07e03fcffe0", 100),
    (100, 100): ("693897602d57ca41b4a76d4e9ad024a9d96a66d9d9933744cd92b7654a897376", 100),
    (77, 77): ("a9506a85d533aa4fd2982d919a9134a75b6cb4a9796ab2d3696a54d429ada6db", 100),
    (513, 400): ("28aa5552ab55c2b5a4a5496db2496c99999b66339c6371c7878e3c1ec0fc3ff0", 100),
    (200, 300): ("534fb24964cb8d9a148ea51cea348ca53b69f4c989991633f8e3078e3c3ee3f8", 100),
    (40, 40): ("eac355bcad43381c67b2370fcc58d8a799c8b317762c56636446a4cd6e8b459a", 100),
    (64, 64): ("57602a4f56bfa9a05483a17752e8a5505693a5162aadad792aa9b56a5a55bdab", 100),
    (64, 200): ("5b2a957a2557ca95b5a5c92d1368eecb590af7548ca57149c51b3a50e2863e7c", 100),
}


def picture(height: int, width: int) -> Rgb:
    """Whole numbers alone: the same on every machine, whatever resizes pictures there."""
    y, x = np.mgrid[:height, :width]
    waves = [(x * x * 3 // width + y * 7) % 256, (x * y * 5 // height) % 256, (y * y // 3 + x * 11) % 256]
    return np.stack(waves, 2).astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_hash_is_that_of_the_reference(shape: tuple[int, int]) -> None:
    bits, quality = hash_of(picture(*shape))
    expected, expected_quality = REFERENCE[shape]
    assert np.bitwise_count(bits ^ np.frombuffer(bytes.fromhex(expected), np.uint8)).sum() <= 2
    assert abs(quality - expected_quality) <= 1


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_turned_pictures_have_the_hashes_of_their_pixels(shape: tuple[int, int]) -> None:
    rgb = picture(*shape)
    turned = {
        hash_of(np.ascontiguousarray(np.rot90(each, k)))[0].tobytes()
        for each in (rgb, rgb[:, ::-1])
        for k in range(4)
    }
    made, quality = hashes_of(rgb)
    assert {each.tobytes() for each in made} == turned
    assert made[0].tobytes() == hash_of(rgb)[0].tobytes()
    assert quality == hash_of(rgb)[1]


def test_a_flat_picture_has_no_quality() -> None:
    assert hash_of(np.full((64, 64, 3), 90, np.uint8))[1] == 0


def test_an_array_is_hashed_as_it_looks_however_it_lies_in_memory() -> None:
    rgb = known.pattern(1)
    assert np.array_equal(hash_of(np.asfortranarray(rgb))[0], hash_of(rgb)[0])
    assert np.array_equal(hash_of(rgb[:, ::-1])[0], hash_of(np.ascontiguousarray(rgb[:, ::-1]))[0])


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (3, 7), (2_000, 3)], ids=str)
def test_the_smallest_and_longest_pictures_have_a_hash(shape: tuple[int, int]) -> None:
    assert hashes_of(picture(*shape))[0].shape == (8, 32)

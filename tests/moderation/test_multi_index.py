from __future__ import annotations

import numpy as np
import pytest

from moderation.hashes import multi_index
from moderation.hashes.multi_index import BITS, Hashes, Near, NearHashes, build, to_words


def hashes(count: int, seed: int = 0) -> Hashes:
    return np.random.default_rng(seed).integers(0, 1 << 64, (count, 4), dtype=np.uint64)


def flipped(rows: Hashes, bits: int, seed: int = 1) -> Hashes:
    random, turned = np.random.default_rng(seed), rows.copy()
    for row in turned:
        for bit in random.choice(BITS, bits, replace=False):
            row[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    return turned


def plainly(index: Hashes, queries: Hashes, distance: int) -> list[Near]:
    """What is right, by comparing everything."""
    apart = np.bitwise_count(queries[:, None] ^ index[None]).sum(axis=2, dtype=int)
    found = [Near(int(q), int(n), int(apart[q, n])) for q, n in np.argwhere(apart <= distance)]
    return sorted(found, key=lambda near: (near.query, near.distance, near.number))


@pytest.fixture(params=["flat", "narrow", "wide"])
def shape(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the index is cut, whatever its size."""
    monkeypatch.setattr(multi_index, "FLAT_BELOW", 10**9 if request.param == "flat" else 1)
    monkeypatch.setattr(multi_index, "NARROW_BELOW", 1 if request.param == "wide" else 10**9)
    # As many strips as in production, and the rest of the bits in none: the tables would take 400 MB.
    monkeypatch.setattr(multi_index, "WIDE", (11,) * 11)
    return str(request.param)


@pytest.mark.usefixtures("shape")
@pytest.mark.parametrize("bits", [0, 1, 16, 30, 31])
def test_whatever_is_within_the_distance_is_found(bits: int) -> None:
    arrays = build(hashes(3_000))
    known = arrays["pdq.hashes"]
    queries = flipped(known[::100], bits)
    found = NearHashes(arrays).near(queries)
    assert [(near.query, near.number, near.distance) for near in found] == [
        (row, row * 100, bits) for row in range(30)
    ]


@pytest.mark.usefixtures("shape")
def test_what_is_farther_is_not_found() -> None:
    arrays = build(hashes(3_000))
    assert NearHashes(arrays).near(flipped(arrays["pdq.hashes"][::100], 32)) == []
    assert NearHashes(arrays).near(~arrays["pdq.hashes"][:100]) == []  # the negative of a picture


@pytest.mark.usefixtures("shape")
@pytest.mark.parametrize("distance", [0, 7, 10, 11, 15, 16, 31])
def test_every_distance_agrees_with_a_plain_comparison(
    distance: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multi_index, "MAX_PAIRS", 500)
    centres = hashes(20)
    crowd = np.concatenate([flipped(centres, bits, seed) for seed, bits in enumerate((0, 3, 8, 12, 15, 20))])
    arrays = build(np.concatenate([crowd, hashes(400, seed=9)]))
    queries = np.concatenate([flipped(centres, 4, seed=77), centres])
    assert NearHashes(arrays).near(queries, distance) == plainly(arrays["pdq.hashes"], queries, distance)


@pytest.mark.parametrize("widths", [multi_index.NARROW, multi_index.WIDE])
def test_every_bit_is_in_a_strip(widths: tuple[int, ...]) -> None:
    assert sum(widths) == BITS


def test_a_bucket_that_holds_the_whole_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi_index, "FLAT_BELOW", 1)
    monkeypatch.setattr(multi_index, "MAX_PAIRS", 100)
    alike = np.zeros((2_000, 4), np.uint64)
    alike[:, 3] = np.arange(2_000, dtype=np.uint64) << np.uint64(40)
    arrays = build(alike)
    queries = arrays["pdq.hashes"][:3]
    assert NearHashes(arrays).near(queries, 31) == plainly(arrays["pdq.hashes"], queries, 31)


def test_doubles_are_dropped_and_an_empty_index_finds_nothing() -> None:
    some = hashes(10)
    assert len(build(np.concatenate([some, some]))["pdq.hashes"]) == 10
    assert NearHashes({}).near(some) == []
    assert NearHashes(build(some[:0])).near(some) == []


def test_bytes_become_words_that_keep_every_distance() -> None:
    ones = np.random.default_rng(4).integers(0, 256, (2, 50, 32), dtype=np.uint8)
    plain = np.bitwise_count(ones[0] ^ ones[1]).sum(axis=1)
    words = np.bitwise_count(to_words(ones[0]) ^ to_words(ones[1])).sum(axis=1)
    assert plain.tolist() == words.tolist()
    # Files outlive a version: the order may never change.
    assert to_words(np.arange(32, dtype=np.uint8))[0].tolist() == ORDER


@pytest.mark.parametrize("distance", [-1, 32])
def test_a_distance_that_would_miss_something_is_refused(distance: int) -> None:
    with pytest.raises(ValueError, match="from 0 to 31"):
        NearHashes(build(hashes(10))).near(hashes(1), distance)


ORDER = [4832724216842813779, 5339370417617373274, 4760384052628357202, 5411145432888838491]

"""The index of PDQ hashes: look-ups a second on one core, recall, and memory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from moderation.hashes import list_file, multi_index
from moderation.hashes.list_file import Header
from moderation.hashes.multi_index import BITS, MAX_DISTANCE, Hashes, NearHashes

FLIPS: Final = (0, 16, MAX_DISTANCE)
VARIANTS: Final = 8
"""Hashes that one picture is looked up by."""
MB: Final = 2**20


def flipped(hashes: Hashes, bits: int, random: np.random.Generator) -> Hashes:
    """Copies of the hashes (N, 4), each with so many bits turned."""
    turned = hashes.copy()
    for row in turned:
        for bit in random.choice(BITS, bits, replace=False):
            row[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    return turned


def measure(count: int, queries: int, rounds: int, folder: Path, samples: dict[str, Any]) -> dict[str, float]:
    """Build, write, map and search an index of `count` random hashes. Times are the CPU's."""
    random = np.random.default_rng(0)
    hashes = random.integers(0, 1 << 64, (count, 4), dtype=np.uint64)
    begun = time.process_time()
    arrays = multi_index.build(hashes)
    built = time.process_time() - begun
    del hashes
    path = folder / "known.pdq"
    list_file.write(path, Header(category="weapons", counts={}), arrays)
    del arrays
    before = psutil.Process().memory_info()
    begun = time.process_time()
    _, mapped = list_file.read(path)
    index = NearHashes(mapped)
    opened = time.process_time() - begun
    known = mapped["pdq.hashes"]
    figures = {
        "index_hashes": float(count),
        "index_build_s": built,
        "index_open_s": opened,
        "index_file_mb": os.path.getsize(path) / MB,
    }
    speeds, found = [], {}
    for bits in FLIPS:
        hits, rates = 0, []
        for _ in range(rounds):
            rows = random.integers(0, count, queries)
            asked = flipped(known[rows], bits, random)
            begun = time.process_time()
            near = index.near(asked)
            rates.append(queries / (time.process_time() - begun))
            hits += len({each.query for each in near if each.number == rows[each.query]})
        found[bits] = hits / (queries * rounds)
        figures[f"index_recall_{bits}"] = found[bits]
        figures[f"index_lookups_per_s_{bits}"] = float(np.median(rates))
        speeds += rates
    figures["index_lookups_per_s"] = float(np.median(speeds))
    figures["index_recall"] = min(found.values())
    alone = []
    for _ in range(rounds * 10):
        asked = random.integers(0, 1 << 64, (VARIANTS, 4), dtype=np.uint64)
        begun = time.process_time()
        index.near(asked)
        alone.append(1000 * (time.process_time() - begun))
    figures["index_picture_ms"] = float(np.median(alone))
    after = psutil.Process().memory_info()
    # What is mapped counts as shared; what a look-up takes beside it does not.
    figures["index_memory_mb"] = (after.rss - before.rss) / MB
    figures["index_private_mb"] = ((after.rss - after.shared) - (before.rss - before.shared)) / MB
    samples["look-ups a second"] = {f"{count:,} hashes": speeds}
    path.unlink()
    return figures

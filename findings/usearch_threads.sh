#!/bin/bash
# Most people would guess: usearch adds vectors with several threads (its default) and gets the same index, only sooner. In 2.26 some
# vectors end up where no search comes by: `contains` and exact search find them, and a search for as many as there are does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check usearch==2.26.6 numpy==2.4.6
"$folder/venv/bin/python" - <<'TRY'
import sys
import numpy as np
import usearch
from usearch.index import Index

print("usearch", usearch.__version__)
SIZE = 1000


def unreachable(seed: int, threads: int) -> int:
    vectors = np.random.default_rng(seed).normal(size=(SIZE, 32)).astype(np.float32)
    index = Index(ndim=32, metric="cos")
    index.add(np.arange(SIZE), vectors, threads=threads)
    assert all(index.contains(np.arange(SIZE)))
    assert len(set(index.search(vectors[0], SIZE, exact=True).keys.tolist())) == SIZE
    return SIZE - len(set(index.search(vectors[0], SIZE, threads=1).keys.tolist()))


counts = {threads: sum(unreachable(seed, threads) for seed in range(20)) for threads in (1, 4)}
for threads, count in counts.items():
    print(f"{threads} thread(s): {count} of {20 * SIZE} vectors are found by no search")
if counts[1] or not counts[4]:
    sys.exit("CHANGED: threads make no difference any more, or one thread loses vectors too")
TRY

#!/usr/bin/env bash
# Most people would guess: pdqhash.compute_dihedral answers the hashes of the mirrored and turned picture. They are near, and use up the match limit of 31 bits.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pdqhash==0.2.8 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
import pdqhash

print("pdqhash", version("pdqhash"))
worst = []
for seed in range(10):
    random = np.random.default_rng(seed)
    cells = random.integers(0, 256, (9, 9, 3)).astype(float)
    at = np.linspace(0, 8, 512)
    low, part = np.minimum(at.astype(int), 7), at - np.minimum(at.astype(int), 7)
    rows = cells[low] * (1 - part)[:, None, None] + cells[low + 1] * part[:, None, None]
    picture = rows[:, low] * (1 - part)[None, :, None] + rows[:, low + 1] * part[None, :, None]
    picture = np.ascontiguousarray(picture.astype(np.uint8))
    hashes, quality = pdqhash.compute_dihedral(picture)
    turned = [np.rot90(each, k) for each in (picture, picture[:, ::-1]) for k in range(4)]
    exact = [pdqhash.compute(np.ascontiguousarray(each))[0] for each in turned]
    worst.append(max(min(int((one != other).sum()) for other in hashes) for one in exact))
print("bits between the hash of a turned 512x512 picture and the nearest of compute_dihedral, worst of 8 turns:")
print(worst)
if max(worst) < 16:
    sys.exit("CHANGED: the hashes of compute_dihedral are those of the turned pictures, or near them")
PYTHON

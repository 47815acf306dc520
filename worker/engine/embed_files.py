"""`python -m worker.engine.embed_files CLIP`: embeds the images that standard input brings.

The first line of standard output is JSON: `{"clip": "name@revision", "bytes": N}`. Images of one size are the
line `COUNT WIDTH HEIGHT` and their RGB bytes. The answer is their vectors, each N bytes: little-endian float16,
of length 1.
"""

from __future__ import annotations

import json
import sys
from typing import BinaryIO, Final

import numpy as np
import torch

from contracts import exit_codes
from worker.engine import clip_source, embedding
from worker.engine.device import pick
from worker.engine.embedding import ImageEmbedder
from worker.engine.errors import ModelLoadError

MAX_LINE_BYTES: Final = 64
GREY: Final = bytes([127]) * (64 * 64 * 3)


def serve(embedder: ImageEmbedder, source: BinaryIO, sink: BinaryIO) -> None:
    """Answer images until `source` ends. Raises `ValueError` for an image that has no vector."""
    size = len(_embed(embedder, GREY, 1, 64, 64))
    sink.write(json.dumps({"clip": embedder.identity, "bytes": size}).encode() + b"\n")
    sink.flush()
    while line := source.readline(MAX_LINE_BYTES):
        count, width, height = map(int, line.split())
        sink.write(_embed(embedder, source.read(count * width * height * 3), count, width, height))
        sink.flush()


def _embed(embedder: ImageEmbedder, rgb: bytes, count: int, width: int, height: int) -> bytes:
    pixels = np.frombuffer(rgb, np.uint8).reshape(count, height, width, 3)
    with torch.inference_mode():
        levels = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float()
        vectors = embedding.as_bytes(embedder.embed(levels))
    if None in vectors:
        raise ValueError("an image has no vector")
    return b"".join(each for each in vectors if each is not None)


def main() -> int:
    """Run until standard input ends."""
    torch.set_num_threads(1)
    try:
        embedder = embedding.load(clip_source.read(sys.argv[1]), pick("cpu"))
    except ModelLoadError as error:
        sys.stderr.write(f"{error}\n")
        return exit_codes.UNUSABLE
    serve(embedder, sys.stdin.buffer, sys.stdout.buffer)
    return exit_codes.ENDED


if __name__ == "__main__":
    sys.exit(main())

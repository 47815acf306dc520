"""`python -m worker.engine.embed_files CLIP`: embeds the images that standard input brings, one by one.

The first line of standard output is JSON: `{"clip": "name@revision", "bytes": N}`. An image is the line
`WIDTH HEIGHT` and its RGB bytes. The answer is its vector: N bytes, little-endian float16, of length 1.
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
    size = len(_embed(embedder, GREY, 64, 64))
    sink.write(json.dumps({"clip": embedder.identity, "bytes": size}).encode() + b"\n")
    sink.flush()
    while line := source.readline(MAX_LINE_BYTES):
        width, height = map(int, line.split())
        sink.write(_embed(embedder, source.read(width * height * 3), width, height))
        sink.flush()


def _embed(embedder: ImageEmbedder, rgb: bytes, width: int, height: int) -> bytes:
    pixels = np.frombuffer(rgb, np.uint8).reshape(height, width, 3)
    with torch.inference_mode():
        levels = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
        [vector] = embedding.as_bytes(embedder.embed(levels))
    if vector is None:
        raise ValueError("an image has no vector")
    return vector


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

"""`python -m moderation.pictures.quantise MODEL FOLDER OUT`: a classifier's network in int8.

Static quantisation, per channel, of weights and activations (Jacob et al. 2018): the images of FOLDER say which
values the activations take. Dynamic quantisation, which needs no images, does not make a convolution faster.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from moderation.hashes.importing import SUFFIXES, rgb_of
from moderation.pictures.onnx_model import NSFW, OnnxModel, open_model
from moderation.pictures.preprocessing import Floats
from moderation.policy import InvalidPolicy

MOST: Final = 200
"""Images that are read at most."""


class Images:
    """What ONNX Runtime asks for the inputs of the network: one dictionary after the other, then None."""

    def __init__(self, model: OnnxModel, folder: Path) -> None:
        self.name = model.session.get_inputs()[0].name
        self._inputs = self._prepared(model, folder)

    def get_next(self) -> dict[str, Floats] | None:
        """The next input."""
        found = next(self._inputs, None)
        return None if found is None else {self.name: found}

    def _prepared(self, model: OnnxModel, folder: Path) -> Iterator[Floats]:
        paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
        for path in paths[:: max(1, len(paths) // MOST)][:MOST]:
            yield model.prepare(rgb_of(path))


def quantise(model: OnnxModel, weights: Path, folder: Path, out: Path) -> None:
    """Write the network of `weights` in int8 to `out`. Raises what the library raises, and `ValueError` without images."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    images: Any = Images(model, folder)
    if not any(path.suffix.lower() in SUFFIXES for path in folder.rglob("*")):
        raise ValueError(f"{folder} has no images")
    with tempfile.TemporaryDirectory() as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(weights), str(prepared))
        quantize_static(
            str(prepared),
            str(out),
            images,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def main() -> int:
    """Quantise what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help=f"{NSFW}, or a folder with model.onnx")
    parser.add_argument("folder", type=Path, help="images like those that will be looked at")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    source = NSFW if given.model == NSFW else Path(given.model)
    try:
        model, weights = open_model(source, None)
        quantise(model, weights, given.folder, given.out)
    except (InvalidPolicy, ValueError, OSError, ModuleNotFoundError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

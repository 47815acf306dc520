#!/usr/bin/env bash
# Most would guess: a reader of metadata that is given another picture answers with that picture's prompt.
# What happens: sd-parsers 0.6 keeps what it found in the last JPEG under id(image). Python gives the id of a picture that is gone to
# a later one, and then the later one is answered with the prompt of the first, without an error.
# What follows: whoever reads many files in one process keeps a reference to each picture, or reads each in a process of its own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check sd-parsers==0.6 pillow==13.0.0
cat > "$folder/show.py" <<'PYTHON'
import gc
import io
import sys
from importlib.metadata import version

from PIL import Image
from sd_parsers import ParserManager

PARAMETERS = "{prompt}\nSteps: 4, Sampler: Euler, CFG scale: 7.5, Seed: 9, Size: 48x32, Model: m, Version: v1"
USER_COMMENT, EXIF_IFD = 0x9286, 0x8769


def jpeg(prompt: str) -> bytes:
    """A file as A1111's web UI writes it: the parameters are Exif's UserComment."""
    picture, file = Image.new("RGB", (48, 32)), io.BytesIO()
    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = b"UNICODE\0" + PARAMETERS.format(prompt=prompt).encode("utf-16-be")
    picture.save(file, "JPEG", exif=exif)
    return file.getvalue()


def read(picture: Image.Image | io.BytesIO) -> str:
    (sampler,) = ParserManager().parse(picture).samplers
    return sampler.prompts[0].value


files = {name: jpeg(name) for name in ("the first", "another")}


def attempt() -> list[str] | None:
    """What is said of the first picture, and then of another that got its id after it was gone. None: none of a hundred got it."""
    first = Image.open(io.BytesIO(files["the first"]))
    said, place, others = [read(first)], id(first), []
    del first
    gc.collect()
    while len(others) < 100:
        others.append(Image.open(io.BytesIO(files["another"])))
        if id(others[-1]) == place:
            return [*said, read(others[-1])]
    return None


# In a process that reads many files it comes by itself.
said = next(found for found in map(lambda _: attempt(), range(1000)) if found is not None)
print(f"sd-parsers {version('sd-parsers')}, pillow {version('pillow')}")
print(f"the first picture: {said[0]!r}; another, with the id of the first, which is gone: {said[1]!r}")
if said != ["the first", "the first"]:
    sys.exit("CHANGED: the other picture is answered with its own prompt")
PYTHON
"$folder/venv/bin/python" "$folder/show.py"

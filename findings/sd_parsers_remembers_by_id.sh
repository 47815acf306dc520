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


files = {f"picture {number}": jpeg(f"picture {number}") for number in range(300)}
read_files, wrong = 0, []
# Which id a new picture gets depends on all that the process has done: read on until it is one that was used before.
while not wrong and read_files < 20_000:
    for name, data in files.items():
        wrong += [name] * (read(io.BytesIO(data)) != name)
        read_files += 1
        if read_files % 2:
            # What the collector does at some time in any process: the last picture is gone, and its id is free.
            gc.collect()
kept = {name: Image.open(io.BytesIO(data)) for name, data in files.items()}
still_wrong = [name for name, picture in kept.items() if read(picture) != name]
print(f"sd-parsers {version('sd-parsers')}, pillow {version('pillow')}")
print(f"{len(wrong)} of {read_files} pictures are answered with another one's prompt; {len(still_wrong)} where all are kept")
if not wrong or still_wrong:
    sys.exit("CHANGED: pictures are no longer mistaken for one another, or also where they are kept")
PYTHON
"$folder/venv/bin/python" "$folder/show.py"

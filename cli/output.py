"""Where `darkroom generate` and `darkroom up` save images.

It is checked before a job is submitted, because a job costs device time.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from client import Client, ClientError, Job

Format = Literal["png", "jpeg", "webp"]

FORMATS: Final[dict[str, Format]] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""The server's `output_format` by a file's suffix."""
STDOUT: Final = "-"
DEFAULT: Final = "picture"
"""The default file, without the suffix."""

Out = Annotated[
    str | None,
    typer.Option(
        "--out",
        "-o",
        help="The file for the picture; its suffix sets the format: .png, .jpg or .webp. Several pictures are numbered. -: standard output.",
        show_default=f"{DEFAULT}.png",
    ),
]


@dataclass(frozen=True, slots=True)
class Output:
    """A path and a format. `path` is None for standard output; then the server chooses the format."""

    path: Path | None
    format: Format | None

    @classmethod
    def of(cls, text: str | None, count: int = 1, image_format: Format | None = None) -> Output:
        """Returns the output for `count` images from the values of `--out` and `--format`. Creates the folder.

        None as `text` is a file in the current folder. Raises `typer.BadParameter` for a path that
        cannot be written, and for a suffix of another format.
        """
        if text is None:
            text = f"{DEFAULT}.{image_format or 'png'}"
        if text == STDOUT:
            if count > 1:
                raise _refused(
                    "Standard output takes only one picture: name a file, and the pictures are numbered."
                )
            if sys.stdout.isatty():
                raise _refused("A terminal cannot show a picture: name a file, or redirect with > or |.")
            return cls(None, image_format)
        if "\0" in text:
            raise _refused("A path cannot contain a zero byte.")
        path = Path(text)
        if not text or text.endswith(("/", os.sep)) or path.is_dir():
            raise _refused(f"{text or 'Nothing'} is not a file: name one, such as {path / 'picture.png'}.")
        by_suffix = FORMATS.get(path.suffix.lower())
        if by_suffix is None and image_format is None:
            endings = ", ".join(FORMATS)
            raise _refused(f"{path.name} does not name a format: end it in {endings}, or give --format.")
        if None not in (by_suffix, image_format) and by_suffix != image_format:
            raise _refused(f"{path.name} is the name of a {by_suffix}, but --format is {image_format}.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _refused(f"{path.parent}: {error.strerror}.") from None
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise _refused(f"{path} cannot be written.")
        return cls(path, image_format or by_suffix)

    def save(self, client: Client, job: Job) -> list[Path | None]:
        """Writes the job's images, and returns the path of each one. None stands for standard output, and for an
        image that the content policy withholds. Raises `ClientError`, `ImageWithheld` if it withholds all."""
        if self.path is None:
            files: list[Path | None] = [None]
        elif len(job.images) == 1:
            files = [self.path.absolute()]
        else:
            path, numbers = self.path.absolute(), range(1, len(job.images) + 1)
            files = [path.with_stem(f"{path.stem}-{number}") for number in numbers]
        shown = [image.url is not None for image in job.images]
        for index, (image, file) in enumerate(zip(job.images, files, strict=True)):
            if not shown[index] and any(shown):
                files[index] = None
                continue
            data = client.image(image)
            try:
                if file is None:
                    sys.stdout.buffer.write(data)
                    sys.stdout.buffer.flush()
                else:
                    file.write_bytes(data)
            except OSError as error:
                raise ClientError(
                    f"{file or 'Standard output'}: {error.strerror}; the job is {job.id}."
                ) from None
        return files


def _refused(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint="--out")

"""Where `darkroom generate` and `darkroom up` put pictures: judged before a job is submitted, for a picture costs."""

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

Out = Annotated[
    str,
    typer.Option(
        "--out",
        "-o",
        help="Where the picture goes, as its suffix says: .png, .jpg or .webp. Several are numbered. -: standard output.",
    ),
]


@dataclass(frozen=True, slots=True)
class Output:
    """Where to, and in which format. No `path`: standard output, in the server's own format."""

    path: Path | None
    format: Format | None

    @classmethod
    def of(cls, text: str, count: int = 1) -> Output:
        """For `count` pictures. Makes the folder that they go to. Raises `typer.BadParameter` for what cannot be written."""
        if text == STDOUT:
            if count > 1:
                raise _refused("Standard output takes one picture: name a file, and they are numbered.")
            if sys.stdout.isatty():
                raise _refused("A terminal shows no picture: name a file, or send it on with > or |.")
            return cls(None, None)
        if "\0" in text:
            raise _refused("A path holds no zero byte.")
        path = Path(text)
        if not text or text.endswith(("/", os.sep)) or path.is_dir():
            raise _refused(f"{text or 'Nothing'} is no file: name one, such as {path / 'picture.png'}.")
        if (wanted := FORMATS.get(path.suffix.lower())) is None:
            raise _refused(
                f"{path.name} does not say which picture it is: it must end in {', '.join(FORMATS)}."
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _refused(f"{path.parent}: {error.strerror}.") from None
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise _refused(f"{path} cannot be written.")
        return cls(path, wanted)

    def save(self, client: Client, job: Job) -> list[str]:
        """Writes the job's pictures; answers where each one went. Raises `ClientError`."""
        if self.path is None:
            files: list[Path | None] = [None]
        elif len(job.images) == 1:
            files = [self.path]
        else:
            stem = self.path.stem
            files = [self.path.with_stem(f"{stem}-{number}") for number in range(1, len(job.images) + 1)]
        for image, file in zip(job.images, files, strict=True):
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
        return ["standard output" if file is None else str(file.absolute()) for file in files]


def _refused(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint="--out")

"""Embeds images in a process of its own, which alone loads torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Final, Self

END_S: Final = 10.0


class EmbeddingFailed(Exception):
    """The process has ended, or cannot load its model. The message says why."""


class ChildEmbedder:
    """The `Embedder` of a CLIP, while inside. `setting` is what `DARKROOM_CLIP` may name."""

    def __init__(self, setting: str) -> None:
        self._setting = setting
        self.clip = ""

    def __enter__(self) -> Self:
        """Start the process, and wait until it has loaded its model. Raises `EmbeddingFailed`."""
        self._errors: IO[bytes] = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "worker.engine.embed_files", self._setting],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
        )
        try:
            about = json.loads(self._out.readline() or b"null")
            if about is None:
                raise self._failure()
            self.clip, self._bytes = str(about["clip"]), int(about["bytes"])
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        with suppress(BrokenPipeError):
            self._in.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()
        self._errors.close()

    def embed(self, rgb: Any) -> bytes:
        """The vector of an image (height, width, 3), uint8. Raises `EmbeddingFailed`."""
        return self.embed_many([rgb])[0]

    def embed_many(self, pictures: Sequence[Any]) -> list[bytes]:
        """The vectors of images of one size, each (height, width, 3), uint8. Raises `EmbeddingFailed`."""
        height, width, _ = pictures[0].shape
        try:
            self._in.write(f"{len(pictures)} {width} {height}\n".encode())
            for each in pictures:
                self._in.write(each.tobytes())
            self._in.flush()
        except BrokenPipeError:
            raise self._failure() from None
        vectors = self._out.read(self._bytes * len(pictures))
        if len(vectors) != self._bytes * len(pictures):
            raise self._failure()
        return [vectors[at : at + self._bytes] for at in range(0, len(vectors), self._bytes)]

    @property
    def _in(self) -> IO[bytes]:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        return self._process.stdin

    @property
    def _out(self) -> IO[bytes]:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        return self._process.stdout

    def _failure(self) -> EmbeddingFailed:
        self._process.wait(END_S)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return EmbeddingFailed(lines[-1] if lines else "The process that embeds images has ended.")

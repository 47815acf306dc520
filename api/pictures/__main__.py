"""`python -m api.pictures`: the process that decodes. It reads requests from its standard input,
and writes answers to its standard output.

A frame is the length of a JSON object (four bytes, big-endian), then that object, then raw bytes;
the object's `bytes` says how many. The process bounds its own memory, and ends when its input does.
The API kills it at the time limit.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import warnings
from pathlib import Path
from typing import Any, BinaryIO, Final

from PIL import Image, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, WebPImagePlugin

from api.pictures.header import MIB, Header
from api.pictures.prepare import prepare
from api.pictures.texts import texts

SLACK_BYTES: Final = 48 * MIB
"""Memory beyond the estimate for an image: allocators round up, and texts in a file may be large."""
LOADED: Final = (JpegImagePlugin, MpoImagePlugin, PngImagePlugin, WebPImagePlugin)
"""Imported at the start, so that the imports do not count in the time limit of the first image."""


def main() -> None:
    """Answer frames until the input ends."""
    # Ctrl-C in a terminal is for the API, which then closes our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = None  # the API has checked the header
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # Output of libraries must not get between the frames.
    os.dup2(2, 1)
    own_bytes = _data_bytes()
    write_frame(sink, {"bytes": 0})
    while (frame := read_frame(source)) is not None:
        head, data = frame
        write_frame(sink, *answer(head, data, own_bytes))


def answer(head: dict[str, Any], data: bytes, own_bytes: int | None) -> tuple[dict[str, Any], bytes]:
    """The head and data of the answer for one image: its new file, or a `fault`.

    `own_bytes` is the memory of this process at its start (None: not known).
    """
    if own_bytes is not None:
        _bound_memory(own_bytes + head["memory_bytes"] + SLACK_BYTES)
    try:
        header, target = Header(**head["header"]), tuple(head["target"])
        made = prepare(data, header, target, head["output"])
        said = texts(data) if head.get("texts") else ""
    except MemoryError:
        return {"fault": "memory", "bytes": 0}, b""
    except Exception:
        # Pillow raises errors of many kinds for files that are cut short or forged.
        return {"fault": "damaged", "bytes": 0}, b""
    return {
        "warnings": made.warnings,
        "size": made.size,
        "texts": said,
        "bytes": len(made.data),
    }, made.data


def read_frame(source: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next frame of `source`, as its head and data; None at the end of the input, also inside a frame."""
    length = source.read(4)
    text = source.read(int.from_bytes(length, "big"))
    if len(length) < 4 or not text:
        return None
    head: dict[str, Any] = json.loads(text)
    data = source.read(head["bytes"])
    return (head, data) if len(data) == head["bytes"] else None


def write_frame(sink: BinaryIO, head: dict[str, Any], data: bytes = b"") -> None:
    """Write a frame to `sink`. `head["bytes"]` must be the length of `data`."""
    text = json.dumps(head).encode()
    sink.write(len(text).to_bytes(4, "big") + text + data)
    sink.flush()


def _data_bytes() -> int | None:
    """The data segment of this process in bytes, as Linux counts it for RLIMIT_DATA; None: this
    system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    except (OSError, IndexError):
        return None


def _bound_memory(most_bytes: int) -> None:
    """Let allocations beyond `most_bytes` fail.

    This protects against images that need more than the estimate.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or hard > most_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, hard))


if __name__ == "__main__":
    main()

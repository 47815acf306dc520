"""Python's garbage collector in a process that serves."""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 10_000
"""Objects that are made and kept before the collector looks at the youngest. Python's own 700 are those of a few requests: all of
them are looked at, all live, and that takes a tenth of a request. What is dropped goes at once, for our code leaves few cycles."""


def settle() -> None:
    """Call it once all is loaded and wired, before the first request. What is there now stays: the collector looks at it no more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])

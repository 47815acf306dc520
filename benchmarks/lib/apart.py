"""Something in a process of its own: what it leaves on a device, compiles, or loses with it, is nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

T = TypeVar("T")


def apart(run: Callable[..., T], *given: object) -> Future[T]:
    """`run(*given)` in a new process, ended. The answer's `exception()` is what it raised, or that the process died."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(run, *given)

"""Faults at the edges of the platform: its receivers and its clients. Each test prints its figures as a line of JSON.

DARKROOM_FULL=1 runs the long versions, as `make fuzz` does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any, Final

import pytest

from benchmarks.lib.platform import FAKE
from tests.integration.conftest import Stack, deploy

__all__ = ["FULL", "deploy", "figures", "stack"]

FULL: Final = os.environ.get("DARKROOM_FULL") == "1"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API and a worker with the fake engine, as processes of their own, for the tests of one module."""
    with Stack.open(FAKE, tmp_path_factory.mktemp("edge"), broker=False) as running:
        yield running


def figures(fault: int, **values: Any) -> None:
    """The figures of a fault, for the documents."""
    print(json.dumps({"fault": fault, **values}))

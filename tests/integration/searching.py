"""A platform with a search, which knows one picture of each prompt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli.services import process
from contracts.tenancy import new_token
from tests.integration.conftest import ROOT, Stack

FOUND_S = 300.0


@contextmanager
def searching(folder: Path, prompts: Sequence[str]) -> Iterator[Stack]:
    """The embedded models, drawn and found: the index has all of them."""
    port = process.free_port()
    environ = {
        "DARKROOM_ADMIN_KEY": new_token(),
        "DARKROOM_CLIP": str(ROOT / "models" / "emoji-clip"),
        "DARKROOM_SEARCH_URL": f"http://127.0.0.1:{port}",
        "DARKROOM_SEARCH_PORT": str(port),
        "DARKROOM_SEARCH_TOKEN": "token",
        "DARKROOM_SEARCH_INDEX": f"embedded:{folder / 'index'}",
    }
    with Stack.open(environ, folder, broker=False) as stack:
        stack.start("search", "search")
        for prompt in prompts:
            assert stack.ended(stack.submit(prompt=prompt))["status"] == "succeeded"
        until(lambda: len(stack.http.get("/v1/search").json().get("data", [])) == len(prompts), stack)
        yield stack


def until(condition: Callable[[], Any], stack: Stack) -> Any:
    """What `condition` answers, once it is true."""
    end = time.monotonic() + FOUND_S
    while not (answer := condition()):
        assert time.monotonic() < end, stack.logs()
        time.sleep(0.1)
    return answer

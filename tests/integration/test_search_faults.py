"""Whatever is killed: every image of a succeeded job is in the index exactly once, and none that was erased. The fake engine stands in."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.services import process
from contracts.tenancy import new_token
from tests.integration.conftest import ROOT, Deploy, Stack
from tests.integration.keeping import owed
from tests.integration.test_faults import FAST, many

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LOADED_S = 240.0
"""A search process loads a CLIP first, and so does a worker's engine."""


def indexed(index: Path) -> Counter[tuple[str, str]]:
    """How often each scope and name is in the index."""
    with closing(sqlite3.connect(f"file:{index / 'pictures.sqlite3'}?mode=ro", uri=True)) as database:
        rows = database.execute(
            "SELECT scopes.name, pictures.name FROM pictures JOIN scopes ON scopes.id = pictures.scope"
        )
        return Counter((str(scope), str(name)) for scope, name in rows)


def of(index: Path, tenant: str) -> int:
    return sum(scope == tenant for scope, _ in indexed(index))


def until(condition: Callable[[], bool], stack: Stack) -> None:
    end = time.monotonic() + LOADED_S
    while not condition():
        assert time.monotonic() < end, stack.logs()
        time.sleep(0.02)


def test_kills_cost_the_index_no_image_and_bring_back_none(
    deploy: Deploy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, port = tmp_path / "index", process.free_port()
    stack = deploy(
        **FAST,
        DARKROOM_ADMIN_KEY=new_token(),
        DARKROOM_CLIP=str(ROOT / "models" / "emoji-clip"),
        DARKROOM_SEARCH_INDEX=f"embedded:{index}",
        DARKROOM_SEARCH_PORT=str(port),
        DARKROOM_SEARCH_URL=f"http://127.0.0.1:{port}",
        DARKROOM_JOB_TTL_S="600",
    )
    assert stack.broker is not None
    stack.start("search", "search")
    until(lambda: stack.http.get("/v1/search").status_code == 200, stack)

    # A tenant that will be erased while the search is away.
    key = stack.http.post("/v1/keys", json={"tenant": "gone"}).json()["key"]
    with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {key}"}, timeout=90) as theirs:
        for seed in range(5):
            body = {"prompt": "an apple", "seed": seed}
            job = theirs.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"}).json()
            assert job["status"] == "succeeded", job
    until(lambda: of(index, "gone") == 5, stack)

    jobs = many(stack, 40, "slow=0.5")
    until(lambda: of(index, "admin") > 0, stack)
    stack.kill("search")
    stack.processes["search"].wait()
    stack.kill("worker-1")
    before = of(index, "admin")
    assert before < 40, "in the middle"
    for name, value in stack.environ.items():
        if name.startswith("DARKROOM_"):
            monkeypatch.setenv(name, value)
    erased = CliRunner().invoke(app, ["tenant", "erase", "gone"])
    assert erased.exit_code == 0, erased.output
    assert of(index, "gone") == 5, "the index knows nothing of it yet"

    stack.start("search", "search-2")
    stack.start("worker", "worker-2")
    until(lambda: of(index, "admin") > before, stack)
    stack.redis.send(signal.SIGKILL)
    stack.redis.start()
    stack.kill("search-2")
    stack.processes["search-2"].wait()
    stack.broker.send(signal.SIGKILL)
    stack.broker.start()
    stack.start("search", "search-3")

    ended = [stack.ended(job, LOADED_S) for job in jobs]
    assert Counter(job["status"] for job in ended) == {"succeeded": 40}
    names = [image["url"].rpartition("/")[2] for job in ended for image in job["images"]]
    assert len(set(names)) == 40
    until(lambda: owed(stack) == 0, stack)
    assert indexed(index) == Counter(("admin", name) for name in names)
    found = stack.http.get("/v1/search", params={"limit": 100}).json()
    assert sorted(hit["name"] for hit in found["data"]) == sorted(names)

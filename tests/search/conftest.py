"""An empty index of each engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from search.index import PictureIndex
from tests.search.engines import ENGINES, Engine, opened
from tests.search.made import CLIP, DIMENSIONS
from tests.search.servers import SERVERS_OF_TESTS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if "redis" not in ENGINES:
        terminalreporter.write_line(
            "tests/search: the index on Redis was not tested, since no Redis 8 is here: `make test-newer` provides one."
        )


@pytest.fixture(scope="session", autouse=True)
def servers() -> Iterator[None]:
    """Ends the servers that the tests have started."""
    yield
    SERVERS_OF_TESTS.stop()


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = ENGINES[request.param]
    return found


@pytest.fixture
async def index(engine: Engine, tmp_path: Path) -> AsyncIterator[PictureIndex]:
    async with opened(engine, tmp_path, CLIP, DIMENSIONS) as each:
        yield each

"""One deployment for all rounds of the run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.site import Site, opened


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with opened(tmp_path_factory.mktemp("site")) as standing:
        yield standing

"""How the search process starts where something is wrong or away."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.services import process
from contracts import exit_codes
from contracts.errors import StoreUnavailable
from contracts.search_settings import SearchSettings
from search import __main__ as search_main
from search.index import IndexBusy
from tests.integration.conftest import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (IndexBusy("It is open."), exit_codes.UNUSABLE),
        (StoreUnavailable("It is away."), exit_codes.FAILED),
    ],
)
def test_an_index_that_does_not_open_is_told_in_one_line(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def no_layout(_: SearchSettings) -> None:
        """Nothing to check."""

    class Broken:
        def __init__(self, _: SearchSettings) -> None: ...

        def start(self, *, fresh: bool) -> None:
            raise error

    monkeypatch.setattr(search_main, "Runtime", Broken)
    monkeypatch.setattr(search_main, "require_layout", no_layout)
    monkeypatch.setattr("sys.argv", ["search"])
    assert search_main.main() == code
    assert capsys.readouterr().err.splitlines()[-1] == f"darkroom search: {error}"


@pytest.mark.slow
def test_it_starts_while_the_store_is_away(tmp_path: Path) -> None:
    away = f"redis://127.0.0.1:{process.free_port()}"
    settings = SearchSettings.model_validate(
        {
            "redis_url": f"{away}/0",
            "broker_url": f"{away}/1",
            "blob_dir": tmp_path / "blobs",
            "search_index": f"embedded:{tmp_path / 'index'}",
            "search_port": 0,
            "clip": str(ROOT / "models" / "emoji-clip"),
        }
    )
    runtime = search_main.Runtime(settings)
    runtime.start()
    try:
        assert runtime.unready() is None
        assert runtime.fault() is None
    finally:
        runtime.stop()

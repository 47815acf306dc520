"""Which index the settings name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from contracts.errors import SettingsError
from contracts.search_settings import SearchSettings, index_kind
from contracts.settings import without_secrets
from search.embedded import EmbeddedIndex
from search.engines import index_of
from search.postgres import PostgresIndex
from search.redis_index import RedisIndex

ROOT: Final = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("embedded:/data/search", EmbeddedIndex),
        ("embedded:data", EmbeddedIndex),
        ("redis://127.0.0.1:6379/0", RedisIndex),
        ("rediss://user:word@redis.example", RedisIndex),
        ("redis+cluster://a:1,b:2", RedisIndex),
        ("postgresql://user:word@db.example/pictures", PostgresIndex),
        ("postgres://db.example/pictures?sslmode=verify-full", PostgresIndex),
    ],
)
def test_the_setting_names_the_engine(text: str, kind: type) -> None:
    settings = SearchSettings.from_env({"DARKROOM_SEARCH_INDEX": text})
    assert type(index_of(settings)) is kind
    assert SearchSettings.from_env(settings.to_env()) == settings
    assert "word" not in str(without_secrets(settings))


@pytest.mark.parametrize(
    "text",
    [
        "embedded:",
        "embedded: ",
        "/data",
        "mysql://a/b",
        "postgresql://a",
        "postgresql:///b",
        "redis://",
        "redis:x",
        "a b",
    ],
)
def test_a_setting_that_names_none_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="DARKROOM_SEARCH_INDEX"):
        SearchSettings.from_env({"DARKROOM_SEARCH_INDEX": text})


def test_the_default_is_embedded() -> None:
    assert index_kind(SearchSettings().search_index) == "embedded"


@pytest.mark.parametrize(
    ("text", "package", "extra"),
    [
        ("embedded:data", "usearch", "search"),
        ("redis://a", "numpy", "search"),
        ("postgresql://a/b", "psycopg", "search-postgres"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(text: str, package: str, extra: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from contracts.search_settings import SearchSettings; from search.engines import index_of\n"
        f"index_of(SearchSettings(search_index={text!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "SettingsError: DARKROOM_SEARCH_INDEX" in last
    assert f"the package {package}" in last
    assert f"'darkroom[{extra}]'" in last


def test_naming_an_engine_imports_no_other() -> None:
    program = "import sys; import search.engines; print(sorted({'usearch', 'psycopg', 'redis', 'numpy', 'sqlite3'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "[]"


def test_an_unknown_index_is_told_all_that_there_are() -> None:
    with pytest.raises(SettingsError, match="embedded:FOLDER, redis://host or postgresql://host/database"):
        SearchSettings.from_env({"DARKROOM_SEARCH_INDEX": "mysql://host/database"})

"""The vectors of the second model outlive the process, and never those of another model."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.errors import SettingsError
from search.vector_cache import KEPT_S, VectorCache


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened(
    path: Path | None, clip: str = "big@1", limit: int = 10, clock: Clock | None = None
) -> VectorCache:
    return VectorCache(path, clip, limit, clock or Clock())


@pytest.mark.parametrize("kept", [False, True])
def test_what_was_put_is_found(tmp_path: Path, kept: bool) -> None:
    path = tmp_path / "folder" / "rerank.sqlite3"
    cache = opened(path if kept else None)
    cache.put({"a": b"1", "b": b"2"})
    assert cache.get(["a", "b", "c"]) == {"a": b"1", "b": b"2"}
    cache.close()
    again = opened(path if kept else None)
    assert again.get(["a"]) == ({"a": b"1"} if kept else {})
    again.close()


def test_vectors_of_another_model_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "rerank.sqlite3"
    for clip, before in (("big@1", {}), ("big@1", {"a": b"1"}), ("big@2", {}), ("big@1", {})):
        cache = opened(path, clip)
        assert cache.get(["a"]) == before
        cache.put({"a": b"1"})
        cache.close()


def test_those_that_were_used_last_stay() -> None:
    clock = Clock()
    cache = opened(None, limit=3, clock=clock)
    for number, name in enumerate("abc"):
        clock.now = 1000.0 + number
        cache.put({name: name.encode()})
    clock.now = 1010.0
    assert cache.get(["a"]) == {"a": b"a"}
    clock.now = 1011.0
    cache.put({"d": b"d"})
    assert set(cache.get(["a", "b", "c", "d"])) == {"a", "c", "d"}
    clock.now += KEPT_S + 1
    cache.put({"e": b"e"})
    assert set(cache.get(["a", "b", "c", "d", "e"])) == {"e"}


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "rerank.sqlite3"
    path.write_bytes(b"no database " * 1000)
    cache = opened(path)
    cache.put({"a": b"1"})
    assert cache.get(["a"]) == {"a": b"1"}
    cache.close()


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(SettingsError, match="DARKROOM_RERANK_CACHE"):
        opened(tmp_path / "taken" / "rerank.sqlite3")

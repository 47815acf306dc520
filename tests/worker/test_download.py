"""Models on a volume: whole or not at all, and the ones that were wanted."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from worker.download import DONE, FetchError, complete, digest, fetch, main, wait


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "unet" / "weights.safetensors").write_bytes(b"12")
    return folder


def test_a_folder_arrives_whole_and_once(source: Path, tmp_path: Path) -> None:
    into = tmp_path / "models" / "m" / "v1"
    first = fetch(str(source), None, digest(source), into)
    assert first == digest(into) == digest(source) == complete(into)
    (source / "model_index.json").write_text("changed")
    assert fetch(str(source), None, None, into) == first, "what is complete is not fetched again"
    assert [each.name for each in into.parent.iterdir()] == ["v1"]


def test_the_digest_depends_on_names_and_contents(source: Path) -> None:
    before = digest(source)
    (source / "unet" / "weights.safetensors").rename(source / "unet" / "other.safetensors")
    renamed = digest(source)
    (source / "unet" / "other.safetensors").write_bytes(b"13")
    assert len({before, renamed, digest(source)}) == 3


def test_other_files_than_wanted_leave_nothing_behind(source: Path, tmp_path: Path) -> None:
    into = tmp_path / "models" / "v1"
    with pytest.raises(FetchError, match="not the ones wanted"):
        fetch(str(source), None, "0" * 64, into)
    assert list(into.parent.iterdir()) == []


def test_a_model_that_was_put_there_otherwise_is_an_error(source: Path, tmp_path: Path) -> None:
    into = tmp_path / "v1"
    (into / "half").mkdir(parents=True)
    with pytest.raises(FetchError, match="was not put there by a fetch"):
        fetch(str(source), None, None, into)


def test_workers_wait_for_another_to_fetch(source: Path, tmp_path: Path) -> None:
    into = tmp_path / "v1"
    with pytest.raises(FetchError, match="has not appeared"):
        wait(into, None, 0.0)
    thread = threading.Thread(target=fetch, args=(str(source), None, None, into))
    thread.start()
    assert wait(into, digest(source), 20.0) == digest(source)
    thread.join()
    with pytest.raises(FetchError, match="not the ones wanted"):
        wait(into, "0" * 64, 20.0)


@pytest.mark.parametrize("harm", ["changed", "added", "gone", "marked anew"])
def test_files_that_changed_since_are_not_trusted(source: Path, tmp_path: Path, harm: str) -> None:
    """Each worker hashes the volume's files itself, before it loads them."""
    into = tmp_path / "v1"
    wanted = fetch(str(source), None, None, into)
    weights = into / "unet" / "weights.safetensors"
    words = "no longer what was fetched"
    match harm:
        case "changed":
            weights.write_bytes(b"13")
        case "added":
            (into / "unet" / "config.json").write_text("{}")
        case "gone":
            weights.unlink()
        case _:
            weights.write_bytes(b"13")
            (into / DONE).write_text(digest(into))
            words = "not the ones wanted"
    with pytest.raises(FetchError, match=words):
        wait(into, wanted, 5.0)
    with pytest.raises(FetchError, match=words):
        fetch(str(source), None, wanted, into)


@pytest.mark.parametrize(
    ("model", "words"),
    [("owner/name", "name the --revision"), ("/nowhere", "no folder here"), ("x", "no hub id")],
)
def test_a_model_must_be_pinned_or_there(
    model: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([model, "--into", str(tmp_path / "v1")]) == 1
    assert words in capsys.readouterr().err


def test_the_digest_is_printed(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--digest", str(source)]) == 0
    assert capsys.readouterr().out.strip() == digest(source)

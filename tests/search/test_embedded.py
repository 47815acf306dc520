"""What the embedded index does when its files are damaged, missing, or another process's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from contracts.errors import StoreUnavailable
from search.embedded import EmbeddedIndex
from search.embedded_folder import DATABASE
from search.index import IndexBusy, IndexDamaged
from tests.search.made import CLIP, DIMENSIONS, name_of, record, vector

pytestmark = pytest.mark.anyio
EXACT_BELOW = 4
PICTURES = 50


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """The folder of a closed index of fifty pictures, with a graph."""
    index = EmbeddedIndex(tmp_path / "index", EXACT_BELOW)
    await index.open(CLIP, DIMENSIONS)
    await index.put([record(number) for number in range(PICTURES)])
    await index.close()
    assert len(graphs(tmp_path / "index")) == 1
    return tmp_path / "index"


def graphs(folder: Path) -> list[Path]:
    return sorted(folder.glob("vectors-*"))


async def opened(folder: Path, exact_below: int = EXACT_BELOW) -> EmbeddedIndex:
    index = EmbeddedIndex(folder, exact_below)
    await index.open(CLIP, DIMENSIONS)
    return index


async def found(index: EmbeddedIndex) -> set[str]:
    return {each.name for each in await index.nearest(["a"], vector(1), 100)}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("harm", [cut, empty, flip, Path.unlink])
async def test_a_damaged_file_of_vectors_is_made_again(folder: Path, harm: Callable[[Path], None]) -> None:
    whole = graphs(folder)[0].read_bytes()
    harm(graphs(folder)[0])
    index = await opened(folder)
    assert await found(index) == {name_of(number) for number in range(PICTURES)}
    await index.close()
    assert graphs(folder)[0].stat().st_size > 0.9 * len(whole), "written again"


async def test_a_file_of_vectors_that_is_behind_is_brought_up_to_date(folder: Path) -> None:
    """As after a kill: the file is older than what SQLite has."""
    old, name = graphs(folder)[0].read_bytes(), graphs(folder)[0].name
    index = await opened(folder)
    await index.put([record(number) for number in range(PICTURES, PICTURES + 10)])
    await index.put([record(7, turned=1007)])
    await index.delete("a", [name_of(3)])
    await index.close(flush=False)
    assert [each.name for each in graphs(folder)] == [name]
    assert graphs(folder)[0].read_bytes() == old
    index = await opened(folder)
    assert await found(index) == {name_of(number) for number in range(PICTURES + 10) if number != 3}
    assert (await index.nearest(["a"], vector(1007), 1))[0].name == name_of(7)
    assert (await index.nearest(["a"], vector(PICTURES + 9), 1))[0].name == name_of(PICTURES + 9)
    await index.close()


async def test_the_file_of_vectors_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is only read and not made again, or large indexes would start slowly."""
    before = graphs(folder)[0].stat()
    index = await opened(folder)
    assert await found(index) == {name_of(number) for number in range(PICTURES)}
    await index.close()
    after = graphs(folder)[0].stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


async def test_files_left_behind_are_deleted(folder: Path) -> None:
    (folder / "vectors-1-99.usearch").write_bytes(b"of a process that was killed")
    (folder / "vectors-1-99.part").write_bytes(b"half")
    index = await opened(folder)
    assert len(graphs(folder)) == 1
    await index.close()


async def test_a_scope_that_has_become_small_needs_no_graph(folder: Path) -> None:
    index = await opened(folder)
    await index.delete("a", [name_of(number) for number in range(2, PICTURES)])
    await index.close()
    index = await opened(folder)
    assert await found(index) == {name_of(0), name_of(1)}
    assert graphs(folder) == []
    await index.put([record(number) for number in range(20)])
    assert await found(index) == {name_of(number) for number in range(20)}
    await index.close()


async def test_small_scopes_do_not_all_stay_in_memory(tmp_path: Path) -> None:
    index = EmbeddedIndex(tmp_path / "index", 1000, small_bytes=50_000)
    await index.open(CLIP, DIMENSIONS)
    for tenant in range(40):
        await index.put([record(number, f"t{tenant}") for number in range(5)])
    assert (await index.stats()).memory_bytes < 60_000
    for tenant in range(40):
        assert len(await index.nearest([f"t{tenant}"], vector(1), 10)) == 5
        assert len(await index.by_words([f"t{tenant}"], "picture", 10)) == 5
        assert await index.delete(f"t{tenant}", [name_of(1)]) == 1
        assert len(await index.nearest([f"t{tenant}"], vector(1), 10)) == 4
    assert (await index.stats()).memory_bytes < 60_000
    await index.close()


async def test_another_limit_for_exact_search_is_taken_up(folder: Path) -> None:
    for exact_below in (1000, 4, 51, 50):
        index = await opened(folder, exact_below)
        assert await found(index) == {name_of(number) for number in range(PICTURES)}
        await index.close()


@pytest.mark.parametrize("harm", [cut, empty, lambda path: path.write_bytes(b"no database at all" * 1000)])
async def test_a_damaged_database_is_refused_with_what_to_do(
    folder: Path, harm: Callable[[Path], None]
) -> None:
    harm(folder / DATABASE)
    index = EmbeddedIndex(folder, EXACT_BELOW)
    with pytest.raises(IndexDamaged, match="python -m search --rebuild"):
        await index.open(CLIP, DIMENSIONS)
    with pytest.raises(IndexDamaged):
        await index.open(CLIP, DIMENSIONS)
    await index.open(CLIP, DIMENSIONS, fresh=True)
    assert await index.count() == 0
    await index.put([record(1)])
    await index.close()
    assert await (await opened(folder)).count() == 1


async def test_one_process_at_a_time_has_it_open(folder: Path) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path; from search.embedded import EmbeddedIndex\n"
        "async def main():\n"
        f"    index = EmbeddedIndex(Path(sys.argv[1]), 4); await index.open({CLIP!r}, {DIMENSIONS})\n"
        "    print('open', flush=True); sys.stdin.read()\n"
        "asyncio.run(main())"
    )
    other = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", program, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert other.stdout is not None
    assert other.stdin is not None
    assert other.stdout.readline() == "open\n"
    index = EmbeddedIndex(folder, EXACT_BELOW)
    with pytest.raises(IndexBusy):
        await index.open(CLIP, DIMENSIONS)
    other.kill()
    other.wait()
    other.stdin.close()
    other.stdout.close()
    index = await opened(folder)
    assert len(await found(index)) == PICTURES
    await index.close()


async def test_a_process_that_is_killed_loses_nothing_it_answered_for(tmp_path: Path) -> None:
    """Kill it while it puts. What it said was put is there, and all that is there is found."""
    program = (
        "import asyncio, sys; from pathlib import Path; from search.embedded import EmbeddedIndex\n"
        "from tests.search.made import record\n"
        "async def main():\n"
        f"    index = EmbeddedIndex(Path(sys.argv[1]), 40); await index.open({CLIP!r}, {DIMENSIONS})\n"
        "    for number in range(100_000):\n"
        "        await index.put([record(number)])\n"
        "        if number % 7 == 6: await index.delete('a', [record(number - 3).name])\n"
        "        if number % 50 == 49: await index.flush()\n"
        "        print(number, flush=True)\n"
        "asyncio.run(main())"
    )
    root = Path(__file__).parents[2]
    running = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", program, str(tmp_path / "index")], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert running.stdout is not None
    said = -1
    for line in running.stdout:
        said = int(line)
        if said == 173:
            running.kill()
    running.wait()
    running.stdout.close()
    index = await opened(tmp_path / "index", 40)
    there = {name_of(number) for number in range(said + 1) if number % 7 != 3 or number + 3 > said}
    near = {each.name for each in await index.nearest(["a"], vector(1), 1000)}
    worded = {each.name for each in await index.by_words(["a"], "picture", 1000)}
    assert near == worded
    assert len(near) == await index.count()
    assert there - near <= {name_of(said + 1 - 3)}
    assert near - there <= {name_of(said + 1)}
    await index.close()


async def test_a_folder_that_cannot_be_used_is_a_store_away(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable):
        await EmbeddedIndex(tmp_path / "file" / "index", 4).open(CLIP, DIMENSIONS)


async def test_other_users_of_the_machine_read_no_prompt(folder: Path) -> None:
    assert folder.stat().st_mode & 0o077 == 0

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from contracts.moderation import Finding
from contracts.ports.picture_judge import PictureJudge, PictureToJudge
from moderation.hashes.importing import BadRows, import_list
from moderation.judge import LayeredJudge, open_judge
from moderation.policy import InvalidPolicy, parse
from tests.moderation import known

POLICY = """
name: house
version: 1
pictures: {lists: [{file: known.pdq, category: weapons}]}
rules: {weapons: {hashes: block}}
"""


class Asks:
    """A looker that is a function."""

    def __init__(self, look: Callable[[PictureToJudge], Sequence[Finding]]) -> None:
        self.look = look


def finding(source: str) -> Finding:
    return Finding(layer="hashes", category="weapons", source=source)


@pytest.mark.anyio
async def test_a_known_file_is_found_by_its_digest(tmp_path: Path) -> None:
    listed, other = known.picture(known.pattern(1)), known.picture(known.pattern(2))
    import_list(known.csv_of(tmp_path, listed.file), tmp_path / "known.pdq", "weapons")
    judge: PictureJudge = open_judge(parse(POLICY, "policy", tmp_path))
    look = await judge.look(listed)
    assert [(each.layer, each.category, each.score) for each in look.findings] == [("hashes", "weapons", 1.0)]
    assert look.findings[0].source.startswith("known.pdq@")
    assert look.findings[0].source.endswith(" by sha256")
    assert look.away == ()
    assert (await judge.look(other)).findings == ()


@pytest.mark.anyio
async def test_md5_is_compared_as_well(tmp_path: Path) -> None:
    listed = known.picture(known.pattern(1))
    source = tmp_path / "known.csv"
    source.write_text(f"{hashlib.md5(listed.file).hexdigest()},1,2020-07-31T20:23:47+0000,x\n")
    import_list(source, tmp_path / "known.pdq", "weapons")
    judge = open_judge(parse(POLICY, "policy", tmp_path))
    [found] = (await judge.look(listed)).findings
    assert found.source.endswith(" by md5")


def test_a_bad_row_keeps_the_list_from_being_written(tmp_path: Path) -> None:
    source = known.csv_of(tmp_path, b"a", b"b")
    source.write_text(source.read_text() + "Samples,sha256,beef,,\n")
    with pytest.raises(BadRows, match=r"known\.csv has 1 rows .*line 4: a sha256 has 64"):
        import_list(source, tmp_path / "known.pdq", "weapons")
    assert not (tmp_path / "known.pdq").exists()
    header, collected = import_list(source, tmp_path / "known.pdq", "weapons", skip_bad=True)
    assert (header.counts, collected.bad) == ({"sha256": 2}, 1)


def test_a_list_of_another_category_stops_the_policy(tmp_path: Path) -> None:
    import_list(known.csv_of(tmp_path, b"a"), tmp_path / "known.pdq", "violence")
    with pytest.raises(InvalidPolicy, match="is a list of violence, and the policy names it for weapons"):
        open_judge(parse(POLICY, "policy", tmp_path))


def test_a_list_that_is_missing_stops_the_policy(tmp_path: Path) -> None:
    with pytest.raises(InvalidPolicy, match=r"known\.pdq cannot be read"):
        open_judge(parse(POLICY, "policy", tmp_path))


@pytest.mark.anyio
async def test_a_looker_that_fails_leaves_the_findings_of_the_others() -> None:
    judge = LayeredJudge(
        {"hashes": [Asks(lambda _: 1 / 0), Asks(lambda _: [finding("a")])], "pictures": [Asks(lambda _: [])]},  # type: ignore[arg-type, return-value]
        limit_s=10,
    )
    look = await judge.look(known.picture(known.pattern(1)))
    assert [each.source for each in look.findings] == ["a"]
    assert look.away == ("hashes",)


@pytest.mark.anyio
async def test_a_look_that_takes_too_long_makes_its_layer_away() -> None:
    go_on = threading.Event()

    def slow(_: PictureToJudge) -> Sequence[Finding]:
        go_on.wait()
        return [finding("late")]

    judge = LayeredJudge({"hashes": [Asks(lambda _: [finding("a")]), Asks(slow)]}, limit_s=0.05)
    picture = known.picture(known.pattern(1))
    try:
        for _ in range(2):  # each keeps a thread
            look = await judge.look(picture)
            assert [each.source for each in look.findings] == ["a"]
            assert look.away == ("hashes",)
        look = await judge.look(picture)  # and a third finds none
        assert look.findings == ()
        assert look.away == ("hashes",)
    finally:
        go_on.set()
    judge_again = await judge.look(picture)
    assert [each.source for each in judge_again.findings] == ["a", "late"]
    judge.close()


@pytest.mark.anyio
async def test_a_policy_without_lists_finds_nothing(tmp_path: Path) -> None:
    judge = open_judge(parse("name: a\nversion: 1\nrules: {weapons: {}}", "policy"))
    look = await judge.look(known.picture(known.pattern(1)))
    assert (look.findings, look.away) == ((), ())

"""The policy in force: taken over when it is good, kept when it is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from moderation.live import LivePolicy
from moderation.policy import InvalidPolicy, Policy
from telemetry import metrics

POLICY = """
name: shop
version: {version}
words: {{lists: [{{file: {file}, category: weapons}}]}}
rules: {{weapons: {{words: block}}}}
"""


class Folder:
    """A policy with one list."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "policy.yaml"
        self.list_ = folder / "list.txt"
        self.list_.write_text("sword\n")
        self.write(1)

    def write(self, version: int, file: str = "list.txt") -> None:
        replace(self.path, POLICY.format(version=version, file=file))


def replace(path: Path, text: str) -> None:
    """As editors and ConfigMaps do: another file takes the place."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    os.replace(beside, path)


def words(policy: Policy) -> tuple[str, ...]:
    found = policy.words.lists[0].file.read_text().split()
    if "poison" in found:
        raise InvalidPolicy("the list is poisoned")
    return tuple(found)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_what_does_not_change_is_read_once(folder: Folder) -> None:
    read: list[Policy] = []
    live = LivePolicy.opened(folder.path, read.append)
    assert not live.look()
    assert len(read) == 1


def test_a_new_policy_and_a_new_list_are_taken_over(folder: Folder) -> None:
    live = LivePolicy.opened(folder.path, words)
    before = live.now
    folder.write(2)
    assert live.look()
    assert (before.policy.title, live.now.policy.title) == ("shop@1", "shop@2")
    assert metrics.POLICY_INFO.labels("shop@1")._value.get() == 0
    assert metrics.POLICY_INFO.labels("shop@2")._value.get() == 1
    replace(folder.list_, "sword pistol\n")
    assert live.look()
    assert live.now.compiled == ("sword", "pistol")
    assert not live.look()


@pytest.mark.parametrize("bad", ["no policy", "", "name: [", POLICY.format(version=0, file="list.txt")])
def test_the_last_good_policy_stays_and_the_bad_one_is_told_once(folder: Folder, bad: str) -> None:
    live = LivePolicy.opened(folder.path, words)
    replace(folder.path, bad)
    with capture_logs() as logs:
        assert not live.look()
        assert not live.look()
    assert [each["event"] for each in logs] == ["policy_bad"]
    assert live.now.policy.title == "shop@1"
    assert metrics.POLICY_BAD._value.get() == 1
    folder.write(2)
    assert live.look()
    assert metrics.POLICY_BAD._value.get() == 0


def test_a_list_that_comes_after_its_policy_is_waited_for(folder: Folder) -> None:
    live = LivePolicy.opened(folder.path, words)
    folder.write(2, "later.txt")
    assert not live.look()
    (folder.folder / "later.txt").write_text("bow\n")
    assert live.look()
    assert (live.now.policy.title, live.now.compiled) == ("shop@2", ("bow",))


def test_a_poisoned_list_changes_nothing(folder: Folder) -> None:
    live = LivePolicy.opened(folder.path, words)
    replace(folder.list_, "poison\n")
    assert not live.look()
    assert live.now.compiled == ("sword",)
    replace(folder.list_, "bow\n")
    assert live.look()


def test_a_policy_that_is_deleted_stays_in_force(folder: Folder) -> None:
    live = LivePolicy.opened(folder.path, words)
    folder.path.unlink()
    assert not live.look()
    assert live.now.policy.title == "shop@1"


def test_at_the_start_a_bad_policy_is_an_error(folder: Folder) -> None:
    folder.list_.unlink()
    with pytest.raises(InvalidPolicy, match=r"list\.txt does not exist"):
        LivePolicy.opened(folder.path, words)


def test_a_change_without_a_new_version_is_noted(folder: Folder) -> None:
    live = LivePolicy.opened(folder.path, words)
    replace(folder.path, folder.path.read_text().replace("words: block", "words: tag"))
    with capture_logs() as logs:
        assert live.look()
    assert "policy_changed_without_a_new_version" in {each["event"] for each in logs}

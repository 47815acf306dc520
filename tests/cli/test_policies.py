"""What `darkroom doctor` says where the API and its workers have different policies."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.findings import Grade
from cli.policies import own_policy, policies
from contracts.models import WorkerInfo


def worker(policy: str) -> WorkerInfo:
    return WorkerInfo(id="w1", model="m", started_at=1.0, policy=policy)


@pytest.mark.parametrize(
    ("own", "theirs", "grade", "words"),
    [
        ("shop@2", "", Grade.FAULT, "has no policy, and DARKROOM_MODERATION here has shop@2"),
        ("", "shop@2", Grade.FAULT, "has the policy shop@2, and DARKROOM_MODERATION here has none"),
        ("shop@2", "house@2", Grade.FAULT, "has the policy house@2"),
        ("shop@2", "shop@1", Grade.WARNING, "has the policy shop@1"),
        ("shop@2", "shop@2", Grade.OK, "policy: shop@2"),
    ],
)
def test_policies_are_compared(own: str, theirs: str, grade: Grade, words: str) -> None:
    (finding,) = policies(own, [worker(theirs)])
    assert finding.grade is grade
    assert words in finding.what


def test_without_policies_nothing_is_said() -> None:
    assert [*policies("", [worker(""), worker("")])] == []


def test_a_policy_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    own, (finding,) = own_policy(tmp_path / "absent.yaml")
    assert (own, finding.grade) == ("", Grade.FAULT)
    assert own_policy(None) == ("", [])


def test_a_worker_without_a_policy_announces_what_older_versions_can_read() -> None:
    assert "policy" not in worker("").model_dump_json()

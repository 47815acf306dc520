"""`darkroom moderation`: a policy is checked before it is used, and heads are fitted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.moderation.test_meaning import labelled

POLICY = """
name: shop
version: 3
words:
  lists: [{file: own.txt, category: flowers, language: en}]
  exceptions: [fine.txt]
meaning: {heads: [{file: 'builtin:heads/weapons.prompts.json'}]}
rules:
  flowers: {words: block}
  weapons: {meaning: {review: 0.7}}
tenants: {acme: {flowers: {words: tag}}}
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (tmp_path / "own.txt").write_text("tulip\nred rose\n")
    (tmp_path / "fine.txt").write_text("tulip stairs\n")
    (tmp_path / "policy.yaml").write_text(POLICY)
    return tmp_path / "policy.yaml"


def test_a_policy_is_shown_as_it_acts(policy: Path) -> None:
    told = CliRunner().invoke(app, ["moderation", "check", str(policy)])
    assert told.exit_code == 0, told.output
    lines = [" ".join(line.split()) for line in told.output.splitlines()]
    assert lines[0] == "shop@3 can be used."
    assert any(
        line.startswith("words prompt, negative_prompt, lora, init_image flowers own.txt@") for line in lines
    )
    assert "acme flowers tag allow allow allow allow" in lines
    assert "all weapons allow review from 0.7 allow allow allow" in lines
    shown = json.loads(CliRunner().invoke(app, ["moderation", "check", str(policy), "--json"]).output)
    assert [look["entries"] for look in shown["looks"]] == [4, 1, None]


def test_a_second_look_is_shown_with_what_leaves_the_platform(policy: Path) -> None:
    look = "second_look: {url: 'http://vlm:8000/v1', model: look-7b, api_key_env: LOOK_KEY%s}\n"
    text = POLICY.replace(
        "meaning: {review: 0.7}", "meaning: {review: 0.7}, second_look: {review: 0.2, block: 0.8}"
    )
    policy.write_text(text + look % "")
    told = CliRunner().invoke(app, ["moderation", "check", str(policy)])
    assert told.exit_code == 0, told.output
    lines = [" ".join(line.split()) for line in told.output.splitlines()]
    assert "second_look held pictures weapons look-7b -" in lines
    assert "all weapons allow review from 0.7 allow allow review from 0.2, block from 0.8" in lines
    assert "Second look: the image of what is held goes to http://vlm:8000/v1 (look-7b)." in lines, (
        told.output
    )
    assert "It only advises; people decide." in lines
    assert "Its key is the variable LOOK_KEY of the process that calls it." in lines
    policy.write_text(text + look % ", may: [refuse], send_prompt: true")
    told = CliRunner().invoke(app, ["moderation", "check", str(policy)])
    assert "the image and its prompt of what is held goes to" in told.output
    assert "It may refuse by itself." in told.output
    shown = json.loads(CliRunner().invoke(app, ["moderation", "check", str(policy), "--json"]).output)
    assert shown["second_look"]["may"] == ["refuse"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("own.txt", "a\x00b", "own.txt: line 1 holds control characters"),
        ("fine.txt", "# none\n", "fine.txt has no entries"),
        ("policy.yaml", "name: shop\nname: shop\n", "line 2: name stands here a second time"),
    ],
)
def test_what_cannot_be_used_is_named_and_the_code_is_2(
    policy: Path, name: str, content: str, told: str
) -> None:
    (policy.parent / name).write_text(content)
    refused = CliRunner().invoke(app, ["moderation", "check", str(policy)])
    assert refused.exit_code == 2
    assert told in refused.stderr


def test_the_schema_is_printed() -> None:
    printed = CliRunner().invoke(app, ["moderation", "schema"])
    assert json.loads(printed.output)["title"] == "Darkroom policy"


def test_a_head_is_fitted_and_phrases_stay(tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.csv", tmp_path / "head.json"
    prompts.write_text(labelled())
    arguments = ["moderation", "fit", str(prompts), "--category", "fruit", "--out", str(out)]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert "ROC AUC" in first.output
    head = json.loads(out.read_text())
    out.write_text(json.dumps({**head, "phrases": ["a bowl of berries"]}))
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert json.loads(out.read_text()) == {**head, "phrases": ["a bowl of berries"]}


@pytest.mark.parametrize(("content", "code"), [("x", 2), ("prompt,label\n", 2)])
def test_prompts_that_cannot_be_used_change_nothing(tmp_path: Path, content: str, code: int) -> None:
    (tmp_path / "prompts.csv").write_text(content)
    out = tmp_path / "head.json"
    arguments = ["moderation", "fit", str(tmp_path / "prompts.csv"), "--category", "fruit", "--out", str(out)]
    assert CliRunner().invoke(app, arguments).exit_code == code
    assert not out.exists()
    out.write_text("somebody's notes")
    (tmp_path / "prompts.csv").write_text(labelled())
    assert CliRunner().invoke(app, arguments).exit_code == 2
    assert out.read_text() == "somebody's notes"

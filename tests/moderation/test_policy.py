"""What a policy may say, and how it is told that it is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

from moderation import policy
from moderation.policy import BUILTIN, FOLDER, InvalidPolicy, parse, read, schema
from moderation.policy_yaml import load

BASE = "name: shop\nversion: 1\nrules:\n  weapons:\n"


def refusal(text: str) -> str:
    with pytest.raises(InvalidPolicy) as refused:
        parse(text, "p.yaml")
    return str(refused.value)


LOOK = BASE + "    second_look: block\nsecond_look: {{{}}}\n"
GOOD = "url: 'http://vlm/v1', model: m, "
LOOK_FAULTS = [
    ("model: m", "second_look.url: is missing"),
    ("url: 'http://vlm/v1'", "second_look.model: is missing"),
    (
        "url: 'ftp://vlm/v1', model: m",
        "second_look.url: it must begin with https://, http://",
    ),
    ("url: 'http://', model: m", "second_look.url: it must name a host, as https://host does"),
    (
        "url: 'http://vlm/v1?a=b', model: m",
        "second_look.url: it must have no query and no fragment",
    ),
    (
        "url: 'http://me:secret@vlm/v1', model: m",
        "second_look.url: it must hold no password: name api_key_env or api_key_file",
    ),
    (
        "url: 'http://vlm/v1', model: 'a b'",
        "second_look.model: must be the name of a model as the endpoint knows it, without spaces",
    ),
    (GOOD + "api_key: sk-1", "second_look.api_key: there is no such field; did you mean api_key_env?"),
    (
        GOOD + "api_key_env: look-key",
        "second_look.api_key_env: must be the name of an environment variable: capitals, digits and _",
    ),
    (GOOD + "api_key_file: key", "second_look.api_key_file: must be an absolute path"),
    (
        GOOD + "api_key_env: A, api_key_file: /a",
        "second_look: either api_key_env or api_key_file, not both",
    ),
    (GOOD + "timeout_s: 0", "second_look.timeout_s: must be above 0"),
    (GOOD + "timeout_s: 601", "second_look.timeout_s: must be at most 600"),
    (GOOD + "deadline_s: 86401", "second_look.deadline_s: must be at most 86400"),
    (GOOD + "attempts: 0", "second_look.attempts: must be at least 1"),
    (GOOD + "attempts: true", "second_look.attempts: must be a whole number"),
    (GOOD + "budget_per_hour: 0", "second_look.budget_per_hour: must be at least 1"),
    (GOOD + "may: release", "second_look.may: must be a list, of lines that begin with a dash"),
    (GOOD + "may: [block]", "second_look.may[0]: must be 'release' or 'refuse'"),
    (GOOD + "send_prompt: 'yes'", "second_look.send_prompt: must be true or false"),
    (GOOD + "away: open", "second_look.away: must be 'review'"),
    (GOOD + "describe: {hate: x}", "the policy: rules has no entry for hate"),
    (GOOD + "describe: {weapons: ''}", "second_look.describe.weapons: must not be empty"),
]
"""Fields of `second_look`, and what is wrong with them."""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BASE + "    pictures: {block: 1.5}\n", "p.yaml: rules.weapons.pictures.block: must be at most 1"),
        (
            BASE + "    words: off\n",
            "p.yaml: rules.weapons.words: must be 'allow', 'tag', 'review' or 'block'",
        ),
        (BASE + "    words: [block]\n", f"p.yaml: rules.weapons.words: {policy.WHOLE}"),
        (BASE + "    words: 0.5\n", f"p.yaml: rules.weapons.words: {policy.WHOLE}"),
        (BASE + "    words: {tag: yes}\n", "p.yaml: rules.weapons.words.tag: must be a number"),
        (
            BASE + "    word: block\n",
            "p.yaml: rules.weapons.word: there is no such field; did you mean words?",
        ),
        (
            BASE + "    words: {tag: 0.9, block: 0.5}\n",
            "p.yaml: rules.weapons.words: a graver action needs a threshold that is at least as high",
        ),
        ("name: shop\nversion: true\nrules: {w: {}}\n", "p.yaml: version: must be a whole number"),
        ("name: shop\nversion: 1\nrules: {}\n", "p.yaml: rules: must not be empty"),
        ("version: 1\nrules: {w: {}}\n", "p.yaml: name: is missing"),
        (
            BASE + "    words: tag\ntenants: {acme: {weapons: {words: of}}}\n",
            "p.yaml: tenants.acme.weapons.words: must be 'allow', 'tag', 'review' or 'block'",
        ),
        (
            BASE + "    words: tag\ntenants: {acme: {hate: {words: tag}}}\n",
            "p.yaml: the policy: tenants.acme: rules has no entry for hate",
        ),
        (
            BASE + "    words: tag\nwords: {lists: [{file: a, category: hate}]}\n",
            "p.yaml: the policy: rules has no entry for hate",
        ),
        (
            BASE + "    words: tag\nwords: {lists: [{file: builtin:../api/app.py, category: weapons}]}\n",
            "p.yaml: words.lists[0].file: builtin: names a file of the package alone",
        ),
        *[(LOOK.format(fields), f"p.yaml: {told}") for fields, told in LOOK_FAULTS],
        (
            BASE + "    second_look: block\n",
            "p.yaml: the policy: rules.weapons.second_look: the policy has no second_look that says which"
            " model looks",
        ),
        (
            BASE + "    words: tag\ntenants: {acme: {weapons: {second_look: block}}}\n",
            "p.yaml: the policy: tenants.acme.weapons.second_look: the policy has no second_look that says"
            " which model looks",
        ),
        (
            BASE + "    words: tag\nsecond_look: {url: 'http://vlm/v1', model: m}\n",
            "p.yaml: the policy: second_look: no rule says what follows from it; give a category a rule such as"
            " second_look: {review: 0.2, block: 0.8}",
        ),
        (
            BASE + "    words: tag\nwhen_away: {second_look: open}\n",
            "p.yaml: when_away.second_look: must be 'closed'",
        ),
    ],
)
def test_a_fault_is_told_once_with_its_place(text: str, told: str) -> None:
    assert refusal(text) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BASE + "    words: block\n    words: tag\n", "line 6: words stands here a second time"),
        (BASE + "    words: &x block\n    meaning: *x\n", "line 6: an alias"),
        ("a: [", "line 1: it is not YAML"),
        ("[" * 50, "line 1: nested deeper than 20 levels"),
        ("1: 2", "line 1: the name of a field must be text, not 1"),
        ("- a", "has no fields"),
        ("", "has no fields"),
        ("a: !!python/object:os.system {}", "line 1: it is not YAML"),
    ],
)
def test_yaml_that_is_easily_misread_is_refused_with_its_line(text: str, told: str) -> None:
    assert told in refusal(text)


def test_words_that_yaml_takes_for_truth_values_stay_words() -> None:
    assert load("{a: on, b: off, c: no, d: yes, e: true, f: false, g: 2026-01-01, h: 1.5}") == {
        "a": "on",
        "b": "off",
        "c": "no",
        "d": "yes",
        "e": True,
        "f": False,
        "g": "2026-01-01",
        "h": 1.5,
    }


def test_a_tenant_changes_the_layers_that_it_names_alone() -> None:
    found = parse(
        BASE + "    words: block\n    meaning: {tag: 0.4, review: 0.8}\n"
        "tenants: {acme: {weapons: {words: tag}}}\n",
        "p",
    )
    own = found.rules_of("acme")["weapons"]
    assert (own.action("words", 1.0), own.action("meaning", 0.9)) == ("tag", "review")
    assert found.rules_of("other")["weapons"].action("words", 1.0) == "block"
    assert found.rules_of("acme") is found.rules_of("acme"), "merged once"


@pytest.mark.parametrize(("content", "told"), [(None, "does not exist"), ("", "is empty")])
def test_a_file_that_the_policy_names_is_named_if_it_cannot_be_used(
    tmp_path: Path, content: str | None, told: str
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        BASE + "    words: tag\nwords: {lists: [{file: bad.txt, category: weapons}]}\n", encoding="utf-8"
    )
    if content is not None:
        (tmp_path / "bad.txt").write_text(content)
    with pytest.raises(InvalidPolicy) as refused:
        read(path)
    assert str(refused.value) == f"{path}: words.lists[0].file: {tmp_path / 'bad.txt'} {told}"


def test_a_policy_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidPolicy, match=r"missing\.yaml cannot be read: No such file"):
        read(tmp_path / "missing.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(InvalidPolicy, match=r"latin\.yaml is not UTF-8"):
        read(tmp_path / "latin.yaml")
    (tmp_path / "large.yaml").write_bytes(b" " * (policy.MAX_POLICY_BYTES + 1))
    with pytest.raises(InvalidPolicy, match="is larger than"):
        read(tmp_path / "large.yaml")


def test_files_are_beside_the_policy_or_built_in(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    (tmp_path / "own.txt").write_text("a\n")
    path.write_text(
        BASE + "    words: tag\nwords:\n  lists:\n    - {file: own.txt, category: weapons}\n"
        f"    - {{file: '{BUILTIN}lists/weapons.en.txt', category: weapons}}\n"
    )
    assert [file for _, file in read(path).files()] == [
        tmp_path / "own.txt",
        FOLDER / "lists" / "weapons.en.txt",
    ]


def test_the_schema_takes_what_is_a_policy_and_refuses_what_is_none() -> None:
    document = json.loads(json.dumps(schema()))
    jsonschema.Draft202012Validator.check_schema(document)
    validator = jsonschema.Draft202012Validator(document)
    good = load(BASE + "    words: block\n    meaning: {review: 0.5}\n")
    assert validator.is_valid(good)
    for bad in (
        {**good, "rules": {"weapons": {"words": "off"}}},
        {**good, "rules": {"weapons": {"words": {"tag": 2}}}},
        {**good, "rule": {}},
        {**good, "version": 0},
    ):
        assert not validator.is_valid(bad)

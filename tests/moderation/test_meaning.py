"""The meaning of prompts: embeddings, heads, and the process that the API asks."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from moderation.embedding import DIMENSIONS, MAX_PIECES, NAME, MiniLm, pieces
from moderation.fit import InvalidPrompts, fitted, read_prompts, report
from moderation.heads import Heads, read_head
from moderation.live import LivePolicy
from moderation.meaning import Meaning
from moderation.policy import FOLDER, InvalidPolicy, parse, read
from moderation.service import create_app

pytestmark = pytest.mark.anyio

SHIPPED = FOLDER / "heads" / "weapons.prompts.json"
POLICY = """
name: shop
version: 1
meaning: {heads: [{file: head.json}]}
rules: {weapons: {meaning: {review: 0.7, block: 0.95}}}
"""
HARMFUL = ("a steel blade of a gladiator, ready to strike", "a round black explosive with a burning fuse")
BENIGN = ("a red apple on a blue background", "a wooden bat for hitting a ball", "a slice of pizza")


@pytest.fixture(scope="module")
def model() -> MiniLm:
    return MiniLm()


def head(**fields: Any) -> str:
    return json.dumps({"kind": "prompts", "category": "weapons", "model": NAME, **fields})


def test_an_embedding_is_of_length_one_whatever_is_beside_it(model: MiniLm) -> None:
    together = model.texts([*HARMFUL, *BENIGN])
    assert together.shape == (5, DIMENSIONS)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = np.concatenate([model.texts([text]) for text in (*HARMFUL, *BENIGN)])
    assert np.abs((alone * together).sum(1)).min() > 0.99
    assert np.abs(model.texts(["a swоrd"]) - model.texts(["a sword"])).max() == 0, "a Cyrillic letter"


@pytest.mark.parametrize("words", [1, 24, 25, 100, 2000])
def test_a_long_prompt_is_read_in_pieces_without_a_gap(words: int) -> None:
    found = pieces(" ".join(map(str, range(words))))
    assert len(found) <= MAX_PIECES + 1
    assert set(itertools.chain.from_iterable(each.split() for each in found[1:] or found)) == set(
        map(str, range(words))
    )


def test_what_a_long_prompt_hides_is_found(model: MiniLm) -> None:
    shipped = read_head(SHIPPED, model.texts)
    filler = "a calm lake with swans, green hills, small white clouds and a wooden boat near the shore, "
    hidden = filler * 2 + "a long sharp blade that a knight carries into battle to kill, " + filler
    whole = shipped.scores(model.texts([hidden]))[0]
    assert shipped.scores(model.texts(pieces(hidden))).max() > max(0.7, whole)


def test_the_head_that_we_ship_tells_weapons_from_the_rest(model: MiniLm) -> None:
    shipped = read_head(SHIPPED, model.texts)
    assert shipped.scores(model.texts(HARMFUL)).min() > 0.9
    assert shipped.scores(model.texts(BENIGN)).max() < 0.6


def test_a_phrase_is_added_without_training(model: MiniLm, tmp_path: Path) -> None:
    path = tmp_path / "head.json"
    path.write_text(head(phrases=["a basket full of ripe tomatoes"]))
    own = read_head(path, model.texts)
    scores = own.scores(model.texts(["a basket of ripe red tomatoes", "a fire engine"]))
    assert scores[0] > 0.9
    assert scores[1] == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("no json", "is not JSON"),
        (head(), "would find nothing"),
        (head(phrases=["a"], model="other@1"), "was trained on other@1"),
        (head(weights=[1.0, 2.0]), "weights"),
        (head(phrases=["a"], near={"low": 0.9, "high": 0.8}), "low must be below high"),
        (head(phrases=["a"], thresholds=1), "thresholds: there is no such field"),
        (head(phrases=["a"], bias=float("nan")), "bias: must be a finite number"),
        (head(phrases=["a"], category="hate"), "rules has no entry for it"),
    ],
)
def test_a_poisoned_head_is_named(model: MiniLm, tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "head.json").write_text(content)
    (tmp_path / "policy.yaml").write_text(POLICY)
    with pytest.raises(InvalidPolicy, match=r"head\.json") as refused:
        Heads(read(tmp_path / "policy.yaml"), model.texts)
    assert told in str(refused.value)


def labelled(count: int = 40) -> str:
    """Prompts of fruit and of vehicles: easy to tell apart."""
    fruit, wheels = ("apple", "pear", "plum", "melon", "cherry"), ("truck", "car", "bus", "tram", "van")
    colours = ("red", "blue", "green", "white", "black", "pink", "grey", "golden")
    rows = [f"a {colour} {thing},fruit" for colour in colours for thing in fruit][:count]
    rows += [f"a {colour} {thing},benign" for colour in colours for thing in wheels][:count]
    return "\n".join(["prompt,label", *rows])


def test_a_head_is_fitted_and_the_same_each_time(model: MiniLm) -> None:
    prompts, labels = read_prompts(labelled(), "fruit")
    vectors = model.texts(prompts)
    file, told = fitted(prompts, vectors, labels, "fruit", recall=0.95)
    assert (told.harmful, told.benign) == (40, 40)
    assert told.auc > 0.99
    assert told.recall >= 0.95
    assert told.false_alarms < 0.05
    again, _ = fitted(prompts, vectors, labels, "fruit", recall=0.95)
    assert again.model_dump_json() == file.model_dump_json()


def test_the_figures_are_those_of_every_pair() -> None:
    rng = np.random.default_rng(1)
    labels = rng.random(200) < 0.4
    scores = np.round(rng.random(200) + 0.3 * labels, 2)
    told = report(scores, labels, 0.9)
    wins = scores[labels][:, None] - scores[~labels][None, :]
    assert told.auc == pytest.approx(((wins > 0) + 0.5 * (wins == 0)).mean())
    assert told.recall == (scores[labels] >= told.threshold).mean() >= 0.9
    assert told.false_alarms == (scores[~labels] >= told.threshold).mean()
    assert (scores[labels] > told.threshold).mean() < 0.9 or told.threshold in scores, (
        "no higher one would do"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("text,label\na,1\n", "the columns prompt and label"),
        ("prompt,label\na,maybe\n", "line 2: the label must be fruit, 1, benign or 0"),
        ("prompt,label\n,1\n", "line 2: the prompt is empty"),
        ("prompt,label\na,1\na,0\n", "line 3: the same prompt has the other label above"),
        (labelled(10), "at least 20 prompts of each label"),
    ],
)
def test_a_file_that_cannot_be_learnt_from_is_refused(text: str, told: str) -> None:
    with pytest.raises(InvalidPrompts, match=told):
        read_prompts(text, "fruit")


@pytest.fixture
def meaning(model: MiniLm, tmp_path: Path) -> Iterator[Meaning]:
    (tmp_path / "head.json").write_text(SHIPPED.read_text())
    (tmp_path / "policy.yaml").write_text(POLICY)
    live = LivePolicy.opened(tmp_path / "policy.yaml", lambda policy: Heads(policy, model.texts))
    made = Meaning(model, live)
    yield made
    made.close()


async def test_the_process_answers_in_order_and_wants_its_token(meaning: Meaning, anyio_backend: str) -> None:
    app = create_app(meaning, "secret")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        query = {"texts": [*HARMFUL, *BENIGN] * 4}
        assert (await http.post("/look", json=query)).status_code == 401
        answer = (await http.post("/look", json=query, headers={"Authorization": "Bearer secret"})).json()
        assert (
            await http.post("/look", json={"texts": []}, headers={"Authorization": "Bearer secret"})
        ).status_code == 422
        assert (await http.get("/healthz")).json() == {"policy": "shop@1"}
    assert answer["policy"] == "shop@1"
    scores = [found[0]["score"] for found in answer["findings"]]
    assert [score > 0.7 for score in scores] == [True, True, False, False, False] * 4
    assert answer["findings"][0][0]["source"].startswith("head.json@")


def test_a_rule_without_thresholds_needs_a_sure_head() -> None:
    rule = parse("name: a\nversion: 1\nrules: {weapons: {meaning: block, words: tag}}\n", "p").rules[
        "weapons"
    ]
    assert [rule.action("meaning", score) for score in (0.02, 0.49, 0.5, 1.0)] == [
        "allow",
        "allow",
        "block",
        "block",
    ]
    assert rule.action("words", 1.0) == "tag"

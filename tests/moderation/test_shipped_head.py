"""The head that is shipped, on the models that are shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.arms.known_images import Clip, draw
from contracts.model_source import digest
from contracts.ports.picture_judge import PictureToJudge
from moderation.decide import decide
from moderation.judge import open_judge
from moderation.pictures.head import read_head
from moderation.policy import parse

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
ROOT = Path(__file__).parents[2]
HEAD = ROOT / "moderation" / "heads" / "weapons.pictures.json"
POLICY = """
name: house
version: 1
pictures: {heads: [{file: "builtin:heads/weapons.pictures.json"}]}
rules: {weapons: {pictures: {block: 0.7}}}
"""
WEAPONS = ("swords", "bomb", "bow and arrow")
OTHERS = ("red apple", "cat", "hammer", "axe", "kitchen knife", "rose", "guitar", "bus")


def test_the_head_is_of_the_shipped_clip() -> None:
    """`make weapons-head` trains it again."""
    head = read_head(HEAD, f"emoji-clip@{digest(ROOT / 'models' / 'emoji-clip')}")
    assert head.category == "weapons"


@pytest.mark.slow
@pytest.mark.anyio
async def test_what_the_embedded_model_draws_is_judged() -> None:
    clip = Clip()
    policy = parse(POLICY, "policy")
    judge = open_judge(policy, clip.clip)
    for name, rgb in zip(*draw(77, things=(*WEAPONS, *OTHERS)), strict=True):
        picture = PictureToJudge(
            rgb.tobytes(), rgb.shape[1], rgb.shape[0], b"", "acme", clip.embed(rgb), clip.clip
        )
        look = await judge.look(picture)
        verdict = decide(policy, "acme", look.findings, look.away)
        assert verdict.state == ("blocked" if name in WEAPONS else "passed"), name

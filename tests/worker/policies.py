"""A policy whose lists hold the files that the fake engine's noise becomes, for some seeds. All is harmless noise."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import numpy as np

from contracts.engine import Pixels
from moderation.hashes.importing import import_list
from worker.encode import Output, encode

HELD: Final = 101
"""The picture of this seed is held, and that of the next one is blocked."""
BLOCKED: Final = 102
TAGGED: Final = 103
SHOWN: Final = 104

POLICY: Final = """
name: house
version: 3
pictures:
  lists:
    - {file: held.pdq, category: weapons}
    - {file: blocked.pdq, category: violence}
    - {file: tagged.pdq, category: hate}
rules:
  weapons: {hashes: review}
  violence: {hashes: block}
  hate: {hashes: tag}
"""


def file_of(seed: int) -> bytes:
    """The file of the picture that the fake engine draws from the seed."""
    rgb = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
    return encode(Pixels(64, 64, rgb.tobytes()), Output()).data


def name_of(seed: int) -> str:
    """Its file name, once it is shown."""
    return f"{hashlib.sha256(file_of(seed)).hexdigest()}.png"


def policy_in(folder: Path, second_look: str = "") -> Path:
    """The policy, with its lists beside it. `second_look`: the URL of a model that looks at what is held."""
    folder.mkdir(parents=True, exist_ok=True)
    for list_name, category, seed in (
        ("held", "weapons", HELD),
        ("blocked", "violence", BLOCKED),
        ("tagged", "hate", TAGGED),
    ):
        source = folder / f"{list_name}.csv"
        digest = hashlib.sha256(file_of(seed)).hexdigest()
        source.write_text(f"collab,signal_type,signal_str,category,tags\nSamples,sha256,{digest},X,\n")
        import_list(source, folder / f"{list_name}.pdq", category)
    path = folder / "policy.yaml"
    text = POLICY
    if second_look:
        text = text.replace("{hashes: review}", "{hashes: review, second_look: {review: 0.2, block: 0.8}}")
        text += f"second_look: {{url: '{second_look}', model: look-7b}}\n"
    path.write_text(text)
    return path

"""Captions, and what a caption leaves open.

A caption names the concept and, in three of four cases, the background colour; style and layout
words are optional. Without a colour the background is white. What else it leaves open is decided by
the noise: `open_attributes` reads style and layout off fixed projections of the starting noise. Training pairs drawn with this
coupling have the right marginals, so a flow learnt on them is a flow for the same data with
straighter paths (Pooladian et al. 2023, "Multisample flow matching"), and its first step
already knows what the seed asks for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch

from models.recipe import data

_TEMPLATES = (
    "a {thing} on a {colour} background",
    "{thing} on a {colour} background",
    "a {thing} on {colour}",
    "{thing}, {colour} background",
    "a picture of a {thing} on a {colour} background",
)
_BARE = ("a {thing}", "{thing}", "a {thing}", "a picture of a {thing}", "an emoji of a {thing}")
_BARE_SHARE = 0.25
_WHITE = 0
_ARTICLE = re.compile(r"\ba(?= [aeio])")
_STYLE_WORDS = {"noto": "noto style", "flat": "flat style"}
_PLACE_WORDS = {"left": "on the left", "right": "on the right"}


@dataclass(frozen=True, slots=True)
class Request:
    """What one picture is asked to show. `style` and `layout` are None where left open."""

    concept: int
    colour: int
    style: int | None
    layout: int | None
    caption: str


def write(
    thing: str,
    colour: str | None = None,
    style: str | None = None,
    layout: str | None = None,
    template: int = 0,
) -> str:
    """One caption: `a small red apple on a blue background, on the left, noto style`."""
    if layout in ("small", "large"):
        thing = f"{layout} {thing}"
    templates = _BARE if colour is None else _TEMPLATES
    text = templates[template].format(thing=thing, colour=colour)
    for word in (_PLACE_WORDS.get(layout or ""), _STYLE_WORDS.get(style or "")):
        if word:
            text += f", {word}"
    return _ARTICLE.sub("an", text)


class Composer:
    """Draws requests for training, never one of the held-out combinations."""

    def __init__(self, concepts: tuple[data.Concept, ...]) -> None:
        self.concepts = concepts
        self.colours = tuple(data.COLOURS)
        self.allowed = [
            [i for i, colour in enumerate(self.colours) if not data.held_out(c.name, colour)]
            for c in concepts
        ]

    def draw(self, rng: np.random.Generator, concept: int) -> Request:
        """One request for a concept: synonyms, style and layout words come and go."""
        entry = self.concepts[concept]
        allowed = self.allowed[concept]
        bare = rng.random() < _BARE_SHARE and _WHITE in allowed
        colour = _WHITE if bare else int(rng.choice(allowed))
        style = int(rng.integers(len(data.STYLES))) if rng.random() < 0.5 else None
        layout = int(rng.integers(len(data.LAYOUTS))) if rng.random() < 0.2 else None
        thing = entry.name
        if entry.synonyms and rng.random() < 0.25:
            thing = entry.synonyms[int(rng.integers(len(entry.synonyms)))]
        template = int(rng.integers(len(_TEMPLATES))) if rng.random() < 0.5 else 0
        text = write(
            thing,
            None if bare else self.colours[colour],
            None if style is None else data.STYLES[style],
            None if layout is None else data.LAYOUTS[layout].name,
            template,
        )
        return Request(concept, colour, style, layout, text)

    def batch(self, rng: np.random.Generator, count: int, start: int) -> list[Request]:
        """`count` requests; concepts come round evenly, as positions of a shuffled cycle."""
        order = np.random.default_rng(start // len(self.concepts)).permutation(len(self.concepts))
        picks = [int(order[(start + i) % len(self.concepts)]) for i in range(count)]
        return [self.draw(rng, pick) for pick in picks]

    def all_texts(self) -> list[str]:
        """Every word the captions can hold, to train a tokenizer on."""
        texts = []
        for concept in self.concepts:
            for k, thing in enumerate((concept.name, *concept.synonyms)):
                for template in range(len(_TEMPLATES)):
                    style = data.STYLES[k % 2]
                    layout = data.LAYOUTS[(k + template) % len(data.LAYOUTS)].name
                    colour = self.colours[(k + template) % len(self.colours)]
                    texts.append(write(thing, colour, style, layout, template))
        return texts


def open_attributes(noise: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Style and layout that the noise (B, 4, h, w) chooses where a caption leaves them open.

    The mean of a channel over all places, scaled, is standard normal: the sign of the first
    chooses the style, the quantile of the second the layout, by the layouts' shares.
    """
    scaled = noise.mean(dim=(2, 3)) * (noise.shape[2] * noise.shape[3]) ** 0.5
    style = (scaled[:, 0] < 0).long()
    quantile = 0.5 * (1 + torch.erf(scaled[:, 1] / 2**0.5))
    edges = torch.tensor(np.cumsum([layout.share for layout in data.LAYOUTS])[:-1])
    return style.numpy(), torch.bucketize(quantile.double(), edges).numpy()


def settle(requests: list[Request], noise: torch.Tensor) -> tuple[np.ndarray, ...]:
    """Index arrays (concept, style, layout, colour) with the open attributes filled in."""
    styles, layouts = open_attributes(noise)
    for i, request in enumerate(requests):
        if request.style is not None:
            styles[i] = request.style
        if request.layout is not None:
            layouts[i] = request.layout
    concepts = np.array([r.concept for r in requests])
    return concepts, styles, layouts, np.array([r.colour for r in requests])

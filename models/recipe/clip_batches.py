"""Batches for the small CLIP: pairs of pictures of one thing, and the queries that they fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from models.recipe import captions, data, drawn, queries

THINGS = 24
"""Things in a batch, with two pictures each."""
BANK = 128
"""Short queries in a batch: of the batch's things, and of others as negatives."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures, float (B, 3, side, side) in [0, 1], with their attributes (B, 4) and what tells them apart (B,)."""

    pictures: torch.Tensor
    attributes: Any
    identity: torch.Tensor


class Pool:
    """Renders and pictures of the student. Each batch holds pairs of pictures of one thing."""

    def __init__(self, emoji: data.EmojiSet, made: drawn.Drawn | None) -> None:
        self.canvases = data.canvases(emoji)
        self.made = made
        self.allowed = captions.Composer(emoji.concepts).allowed
        self.shares = [layout.share for layout in data.LAYOUTS]
        self.of_thing: dict[int, list[int]] = {}
        self.of_kind: dict[tuple[int, ...], list[int]] = {}
        for row, attributes in enumerate(() if made is None else made.attributes.tolist()):
            self.of_thing.setdefault(attributes[0], []).append(row)
            self.of_kind.setdefault(tuple(attributes[:3]), []).append(row)

    def batch(self, rng: np.random.Generator, step: int) -> Batch:
        """Two pictures of each of `THINGS` things. Things come round evenly."""
        count = len(self.allowed)
        rows = []
        for i in range(min(THINGS, count)):
            place = step * min(THINGS, count) + i
            order = np.random.default_rng(place // count).permutation(count)
            thing = int(order[place % count])
            rows += (
                self._pair_drawn(rng, thing)
                if self._is_drawn(rng, thing)
                else self._pair_rendered(rng, thing)
            )
        pictures, attributes, identity = zip(*rows, strict=True)
        shown = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        return Batch(shown, np.array(attributes), torch.tensor(identity))

    def _is_drawn(self, rng: np.random.Generator, thing: int) -> bool:
        return thing in self.of_thing and rng.random() < 0.6

    def _pair_drawn(self, rng: np.random.Generator, thing: int) -> list[Any]:
        """Often two seeds of one prompt: the hardest to tell apart."""
        assert self.made is not None
        first = int(rng.choice(self.of_thing[thing]))
        kind = tuple(self.made.attributes[first, :3].tolist())
        second = int(rng.choice(self.of_kind[kind] if rng.random() < 0.7 else self.of_thing[thing]))
        return [
            (self.made.pictures[row].astype(np.float32) / 255, self.made.attributes[row], row)
            for row in (first, second)
        ]

    def _pair_rendered(self, rng: np.random.Generator, thing: int) -> list[Any]:
        pair = []
        for _ in range(2):
            colour = int(rng.choice(self.allowed[thing]))
            style, layout = (
                int(rng.integers(len(data.STYLES))),
                int(rng.choice(len(self.shares), p=self.shares)),
            )
            shape = (len(self.allowed), len(data.COLOURS), len(data.STYLES), len(data.LAYOUTS))
            identity = -1 - int(np.ravel_multi_index((thing, colour, style, layout), shape))
            picture = data.over(self.canvases[thing, style, layout], colour)
            pair.append((picture, (thing, colour, style, layout), identity))
        return pair


def written(writer: queries.Writer, rng: np.random.Generator, attributes: Any) -> list[queries.Query]:
    """The queries of a batch: a short one for each of `BANK` things, and a full one for each picture."""
    present = list(dict.fromkeys(attributes[:, 0].tolist()))
    others = [thing for thing in rng.permutation(len(writer.names)).tolist() if thing not in set(present)]
    bank = [*present, *others][: max(BANK, len(present))]
    return [
        *(writer.short(rng, thing) for thing in bank),
        *(writer.full(rng, row) for row in attributes),
    ]

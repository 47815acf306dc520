"""What pictures a query may find: filters by their record's fields. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Protocol

from contracts.pictures import Source

MAX_INTEGER: Final = 2**63
"""No engine keeps an integer of this size or above."""


class Filtered(Protocol):
    """The fields that a filter looks at, as `contracts.pictures.PictureRecord` has them."""

    @property
    def expires_at(self) -> float:
        """Unix seconds."""
        ...

    @property
    def created_at(self) -> float:
        """Unix seconds."""
        ...

    @property
    def width(self) -> int:
        """Pixels."""
        ...

    @property
    def height(self) -> int:
        """Pixels."""
        ...

    @property
    def seed(self) -> int | None:
        """None: it has none."""
        ...

    @property
    def model(self) -> str:
        """The model's name."""
        ...

    @property
    def lora(self) -> str:
        """The adapter's name; empty: none."""
        ...

    @property
    def source(self) -> Source:
        """Where the picture comes from."""
        ...


@dataclass(frozen=True, slots=True)
class Where:
    """A filter. A picture must satisfy all parts that are set. Times are Unix seconds.

    Ranges include both ends. `alive_at`: leave out pictures whose `expires_at` is at or before this time.
    `model` and `lora` are compared exactly; an empty `lora` asks for pictures without one.
    """

    alive_at: float | None = None
    model: str | None = None
    lora: str | None = None
    min_width: int | None = None
    max_width: int | None = None
    min_height: int | None = None
    max_height: int | None = None
    created_from: float | None = None
    created_to: float | None = None
    seed: int | None = None
    source: Source | None = None

    def __post_init__(self) -> None:
        """Raises `ValueError` for a number that no record can have."""
        for number in (self.min_width, self.max_width, self.min_height, self.max_height, self.seed):
            if number is not None and not 0 <= number < MAX_INTEGER:
                raise ValueError(f"A filter's number must be from 0 to {MAX_INTEGER - 1}.")
        for moment in (self.alive_at, self.created_from, self.created_to):
            if moment is not None and not math.isfinite(moment):
                raise ValueError("A filter's time must be finite.")

    @property
    def selects(self) -> bool:
        """Whether it leaves out more than what has expired."""
        return self != Where(alive_at=self.alive_at)

    def matches(self, record: Filtered) -> bool:
        """Whether the filter lets the picture through."""
        return (
            (self.alive_at is None or record.expires_at > self.alive_at)
            and (self.model is None or record.model == self.model)
            and (self.lora is None or record.lora == self.lora)
            and _within(record.width, self.min_width, self.max_width)
            and _within(record.height, self.min_height, self.max_height)
            and _within(record.created_at, self.created_from, self.created_to)
            and (self.seed is None or record.seed == self.seed)
            and (self.source is None or record.source == self.source)
        )


EVERYTHING: Final = Where()
"""The filter that lets every picture through."""


def _within(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)

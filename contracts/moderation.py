"""What moderation finds in prompts and pictures, and what follows from it.

A layer looks at a prompt or a picture and answers `Finding`s: facts, without a judgement. A policy
(`moderation/policy.py`) makes one `Verdict` of all findings. Findings are kept with the verdict, so a
policy of a later version can judge again without another look.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from contracts.documents import Document

Layer = Literal["words", "meaning", "hashes", "pictures", "second_look", "people"]
"""Who looked.

`words`: banned words of a prompt. `meaning`: the embedding of a prompt. `hashes`: lists of known
images. `pictures`: classifiers of pixels or embeddings. `second_look`: a heavier model. `people`:
a reviewer.
"""
Action = Literal["allow", "tag", "review", "block"]
"""What a policy does, mildest first. `review`: the image is held until somebody decides."""
SEVERITY: Final[dict[Action, int]] = {"allow": 0, "tag": 1, "review": 2, "block": 3}

State = Literal["passed", "tagged", "in_review", "blocked", "released", "refused"]
"""The state of an image. A policy decides the first four. People, or a second look that may, decide `released`
and `refused`."""
SHOWN: Final[frozenset[State]] = frozenset({"passed", "tagged", "released"})
"""The states in which an image may be seen by its owner."""

CATEGORY: Final = r"^[a-z][a-z0-9_]{0,31}$"
Category = Annotated[str, Field(pattern=CATEGORY)]
"""A kind of harm, such as `weapons`. A policy may name its own."""


class Finding(Document):
    """One thing that a layer has found."""

    layer: Layer
    category: Category
    score: Annotated[float, Field(ge=0, le=1)] = 1.0
    """How sure the layer is. 1 where it compares exactly."""
    source: str
    """The list, or the model with its revision, that found it."""


class Verdict(Document):
    """What a policy, or a person, decided on one prompt or image."""

    state: State
    categories: tuple[Category, ...] = ()
    """The categories whose rules led to an action, the gravest first."""
    policy: str
    """The policy, as `name@version`."""
    layer: Layer | None = None
    """The layer that decided. None: nothing was found."""
    score: float | None = None
    source: str = ""
    away: tuple[Layer, ...] = ()
    """Layers that could not look."""
    findings: tuple[Finding, ...] = ()

    @property
    def shown(self) -> bool:
        """Whether the image may be seen by its owner."""
        return self.state in SHOWN

    @property
    def reviewed(self) -> bool:
        """Whether a review has decided, and not the policy."""
        return self.state in ("released", "refused")

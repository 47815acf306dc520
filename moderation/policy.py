"""A policy of moderation: which lists and models look, and what follows from what they find.

The file is YAML. Paths in it are relative to its folder. `docs/moderation.md` explains each field.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from contracts.documents import Frozen
from contracts.moderation import Action, Category, Layer

MAX_POLICY_BYTES = 1_000_000

Share = Annotated[float, Field(ge=0, le=1)]


class InvalidPolicy(ValueError):
    """The policy cannot be used. The message names the file and the fields at fault."""


class Thresholds(Frozen):
    """From which score an action is taken. An action without a threshold is never taken."""

    tag: Share | None = None
    review: Share | None = None
    block: Share | None = None

    @model_validator(mode="after")
    def _rise(self) -> Thresholds:
        given = [each for each in (self.tag, self.review, self.block) if each is not None]
        if given != sorted(given):
            raise ValueError("a graver action needs a threshold that is at least as high")
        return self

    def action(self, score: float) -> Action:
        """The gravest action whose threshold the score reaches."""
        if self.block is not None and score >= self.block:
            return "block"
        if self.review is not None and score >= self.review:
            return "review"
        return "tag" if self.tag is not None and score >= self.tag else "allow"


LayerRule = Action | Thresholds
"""One action for whatever the layer finds, or thresholds of its score."""


class Rule(Frozen):
    """What follows for one category, by layer. A layer without an entry changes nothing."""

    words: LayerRule = "allow"
    meaning: LayerRule = "allow"
    hashes: LayerRule = "allow"
    pictures: LayerRule = "allow"
    second_look: LayerRule = "allow"

    def action(self, layer: Layer, score: float) -> Action:
        """The action for what `layer` found at `score`."""
        if layer == "people":
            return "allow"
        rule: LayerRule = getattr(self, layer)
        return rule.action(score) if isinstance(rule, Thresholds) else rule


class WordList(Frozen):
    """A text file of banned words and phrases, one a line."""

    file: Path
    category: Category
    language: str = ""
    tenants: tuple[str, ...] = ()
    """Only for these tenants. Empty: for all."""


class HashList(Frozen):
    """A file of hashes of known images."""

    file: Path
    category: Category
    distance: Annotated[int, Field(ge=0, le=31)] = 31
    """The largest number of different bits of two PDQ hashes that match, of 256."""


class Head(Frozen):
    """A small trained classifier on an embedding; the file names its category and its model."""

    file: Path


class Classifier(Frozen):
    """A classifier of images: a folder, or a name that docs/moderation.md lists."""

    model: str
    labels: Annotated[dict[str, Category], Field(min_length=1)]
    """The category of each label that matters."""


class Words(Frozen):
    """Layer 1: banned words of a prompt."""

    lists: tuple[WordList, ...] = ()
    exceptions: tuple[Path, ...] = ()
    """Files of phrases that are harmless although they hold a banned word."""


class Meaning(Frozen):
    """Layer 2: the embedding of a prompt."""

    heads: tuple[Head, ...] = ()


class Looks(Frozen):
    """Layer 3: what is drawn and what is sent in."""

    lists: tuple[HashList, ...] = ()
    heads: tuple[Head, ...] = ()
    classifiers: tuple[Classifier, ...] = ()
    time_limit_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    """How long the lists, and how long the models, may look at one image. Then their layer is away."""


Away = Literal["open", "closed"]


class WhenAway(Frozen):
    """What follows where a layer cannot look.

    `open`: as if it had found nothing. `closed`: a prompt is refused for now, an image is held.
    """

    words: Away = "closed"
    meaning: Away = "closed"
    hashes: Away = "closed"
    pictures: Away = "closed"
    second_look: Away = "closed"


class Policy(Frozen):
    """A policy, as its file says it."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    version: Annotated[int, Field(ge=1)]
    words: Words = Words()
    meaning: Meaning = Meaning()
    pictures: Looks = Looks()
    rules: Annotated[dict[Category, Rule], Field(min_length=1)]
    tenants: dict[str, dict[Category, dict[str, Any]]] = Field(default_factory=dict)
    """What differs for a tenant, as in `rules`: only the layers that differ."""
    when_away: WhenAway = WhenAway()

    @property
    def title(self) -> str:
        """The policy as verdicts name it: `name@version`."""
        return f"{self.name}@{self.version}"

    def rules_of(self, tenant: str) -> Mapping[Category, Rule]:
        """The rules for a tenant."""
        own = self.tenants.get(tenant, {})
        merged = dict(self.rules)
        for category, changes in own.items():
            base = merged[category].model_dump() if category in merged else {}
            merged[category] = Rule.model_validate({**base, **changes})
        return merged

    @model_validator(mode="after")
    def _whole(self) -> Policy:
        used = {each.category for each in self.words.lists} | {each.category for each in self.pictures.lists}
        used |= {category for each in self.pictures.classifiers for category in each.labels.values()}
        if nameless := sorted(used - set(self.rules)):
            raise ValueError(f"rules has no entry for {', '.join(nameless)}")
        for tenant, changes in self.tenants.items():
            if unknown := sorted(set(changes) - set(self.rules)):
                raise ValueError(f"tenants.{tenant}: rules has no entry for {', '.join(unknown)}")
            self.rules_of(tenant)
        return self


def parse(text: str, origin: str) -> Policy:
    """The policy that YAML says. Raises `InvalidPolicy`, which names `origin`, and each field at fault."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise InvalidPolicy(f"{origin} is not YAML{where}: {getattr(error, 'problem', error)}") from error
    if not isinstance(document, dict):
        raise InvalidPolicy(f"{origin} has no fields: a policy needs name, version and rules")
    try:
        return Policy.model_validate(document)
    except ValidationError as error:
        raise InvalidPolicy(f"{origin}: {_told(error)}") from error


def read(path: Path) -> Policy:
    """The policy in a file. Raises `InvalidPolicy` if it cannot be read or used."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_POLICY_BYTES + 1)
        if len(raw) > MAX_POLICY_BYTES:
            raise InvalidPolicy(f"{path} is larger than {MAX_POLICY_BYTES} bytes")
        return parse(raw.decode("utf-8"), str(path))
    except OSError as error:
        raise InvalidPolicy(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidPolicy(f"{path} is not UTF-8") from error


def _told(error: ValidationError) -> str:
    faults = []
    for each in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in each["loc"] if part != "Thresholds")
        faults.append(f"{where or 'the policy'}: {each['msg'].removeprefix('Value error, ')}")
    return "; ".join(dict.fromkeys(faults))

"""A policy of moderation: which lists and models look, and what follows from what they find.

The file is YAML. Paths in it are relative to its folder. `docs/moderation.md` explains each field.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from contracts.documents import Frozen
from contracts.moderation import CATEGORY, Action, Category, Layer
from contracts.tenancy import TENANT_PATTERN
from moderation.policy_errors import faults_of
from moderation.policy_second_look import PATTERNS, SecondLookRules
from moderation.policy_yaml import InvalidYaml, load

MAX_POLICY_BYTES: Final = 1_000_000
BUILTIN: Final = "builtin:"
"""The first characters of a path in the folder of this package."""
FOLDER: Final = Path(__file__).parent
SURE: Final = 0.5
"""From this score an action without a threshold is taken. What compares exactly has a score of 1."""
NAME: Final = r"^[a-z0-9][a-z0-9-]{0,31}$"
WHOLE: Final = "must be allow, tag, review or block, or thresholds such as {review: 0.5, block: 0.9}"
_PATTERNS: Final = {
    CATEGORY: "lower-case letters, digits and _, with a letter first, 32 at most",
    NAME: "lower-case letters, digits and -, 32 at most",
    TENANT_PATTERN: "the name of a tenant",
    **PATTERNS,
}

Share = Annotated[float, Field(ge=0, le=1, strict=True)]


def _located(path: Path, info: ValidationInfo) -> Path:
    text, folder = path.as_posix(), (info.context or {}).get("folder")
    if text.startswith(BUILTIN):
        inside = (FOLDER / text.removeprefix(BUILTIN)).resolve()
        if not inside.is_relative_to(FOLDER):
            raise ValueError("builtin: names a file of the package alone")
        return inside
    return path if folder is None else folder / path


PolicyFile = Annotated[Path, AfterValidator(_located)]
"""A file that a policy names: relative to the policy's folder, or `builtin:lists/...`."""


class InvalidPolicy(ValueError):
    """The policy cannot be used. The message names the file and the fields at fault.

    `files` are the files that it names, if they are known: it may be usable once one of them changes.
    """

    def __init__(self, message: str, files: Iterable[Path] = ()) -> None:
        super().__init__(message)
        self.files = tuple(files)


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


def _kind(value: object) -> str | None:
    if isinstance(value, (dict, Thresholds)):
        return "<thresholds>"
    return "<action>" if isinstance(value, str) else None


LayerRule = Annotated[
    Annotated[Action, Tag("<action>")] | Annotated[Thresholds, Tag("<thresholds>")],
    Discriminator(_kind, custom_error_type="rule", custom_error_message=WHOLE),
]
"""An action, or thresholds of the score. An action alone is taken from a score of `SURE`."""


class Rule(Frozen):
    """What follows for one category, by layer. A layer without an entry changes nothing."""

    words: LayerRule = "allow"
    meaning: LayerRule = "allow"
    hashes: LayerRule = "allow"
    pictures: LayerRule = "allow"
    second_look: LayerRule = "allow"

    def with_(self, changes: Rule) -> Rule:
        """This rule with the layers that `changes` sets."""
        return self.model_copy(update={name: getattr(changes, name) for name in changes.model_fields_set})

    def action(self, layer: Layer, score: float) -> Action:
        """The action for what `layer` found at `score`."""
        if layer == "people":
            return "allow"
        rule: LayerRule = getattr(self, layer)
        if isinstance(rule, Thresholds):
            return rule.action(score)
        return rule if score >= SURE else "allow"


TenantName = Annotated[str, Field(pattern=TENANT_PATTERN)]
WordField = Literal["prompt", "negative_prompt", "lora", "init_image"]
"""What words are looked for in. `lora`: the adapter's name. `init_image`: texts in the file's metadata."""


class WordList(Frozen):
    """A text file of banned words and phrases, one a line."""

    file: PolicyFile
    category: Category
    language: str = ""
    """The language of its words, as in `en`. With `en`, plural forms are banned too."""
    plurals: bool | None = None
    """Whether English plural forms of its words are banned too; by default for the language `en` alone."""
    tenants: tuple[TenantName, ...] = ()
    """Only for these tenants. Empty: for all."""

    @property
    def with_plurals(self) -> bool:
        """Whether plural forms are banned too."""
        return self.language == "en" if self.plurals is None else self.plurals


class HashList(Frozen):
    """A file of hashes of known images."""

    file: PolicyFile
    category: Category
    distance: Annotated[int, Field(ge=0, le=31, strict=True)] = 31
    """The largest number of different bits of two PDQ hashes that match, of 256."""
    similarity: Share = 0.9
    """The smallest cosine of an embedding and a listed one that match, where the list has embeddings."""


class Head(Frozen):
    """A small trained classifier on an embedding; the file names its category and its model."""

    file: PolicyFile


class Classifier(Frozen):
    """A classifier of images: a folder with an ONNX model, or the name of one in a package."""

    model: Literal["yahoo-open-nsfw"] | PolicyFile
    """A folder has `model.onnx`, and `config.json` and `preprocessor_config.json` in transformers' format."""
    labels: Annotated[dict[str, Category], Field(min_length=1)]
    """The category of each label that matters."""
    weights: PolicyFile | None = None
    """Another ONNX file of the same model, such as one in int8."""


class Words(Frozen):
    """Layer 1: banned words of a prompt."""

    lists: tuple[WordList, ...] = ()
    exceptions: tuple[PolicyFile, ...] = ()
    """Files of phrases that are harmless although they hold a banned word."""
    fields: tuple[WordField, ...] = ("prompt", "negative_prompt", "lora", "init_image")


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
    second_look: Literal["closed"] = "closed"
    """Where the second look is away, people decide. It cannot be `open`."""


class Policy(Frozen):
    """A policy, as its file says it."""

    name: Annotated[str, Field(pattern=NAME)]
    version: Annotated[int, Field(ge=1, strict=True)]
    words: Words = Words()
    meaning: Meaning = Meaning()
    pictures: Looks = Looks()
    second_look: SecondLookRules | None = None
    """None: people alone look at held images."""
    rules: Annotated[dict[Category, Rule], Field(min_length=1)]
    tenants: dict[TenantName, dict[Category, Rule]] = Field(default_factory=dict)
    """What differs for a tenant, as in `rules`: only the layers that differ."""
    when_away: WhenAway = WhenAway()

    @property
    def title(self) -> str:
        """The policy as verdicts name it: `name@version`."""
        return f"{self.name}@{self.version}"

    @property
    def judges_pictures(self) -> bool:
        """Whether anything looks at images."""
        return bool(self.pictures.lists or self.pictures.heads or self.pictures.classifiers)

    def rules_of(self, tenant: str) -> Mapping[Category, Rule]:
        """The rules for a tenant."""
        return self.rules_by_tenant.get(tenant, self.rules)

    @cached_property
    def rules_by_tenant(self) -> Mapping[str, Mapping[Category, Rule]]:
        """The rules of each tenant that has some of its own."""
        return {
            tenant: MappingProxyType(
                {**self.rules, **{name: self.rules[name].with_(own[name]) for name in own}}
            )
            for tenant, own in self.tenants.items()
        }

    def files(self) -> Iterator[tuple[str, Path]]:
        """Each file that the policy names, with its place in it."""
        named: tuple[tuple[str, tuple[WordList | Head | HashList, ...]], ...] = (
            ("words.lists", self.words.lists),
            ("meaning.heads", self.meaning.heads),
            ("pictures.lists", self.pictures.lists),
            ("pictures.heads", self.pictures.heads),
        )
        for place, entries in named:
            for index, entry in enumerate(entries):
                yield f"{place}[{index}].file", entry.file
        for index, classifier in enumerate(self.pictures.classifiers):
            if isinstance(classifier.model, Path):
                yield f"pictures.classifiers[{index}].model", classifier.model / "config.json"
            if classifier.weights is not None:
                yield f"pictures.classifiers[{index}].weights", classifier.weights
        for index, path in enumerate(self.words.exceptions):
            yield f"words.exceptions[{index}]", path

    @property
    def every_rule(self) -> Iterator[tuple[str, Rule]]:
        """Each rule, with its place."""
        for name, rule in self.rules.items():
            yield f"rules.{name}", rule
        for tenant, changes in self.tenants.items():
            for name, rule in changes.items():
                yield f"tenants.{tenant}.{name}", rule

    @model_validator(mode="after")
    def _looked_at_twice(self) -> Policy:
        places = [place for place, rule in self.every_rule if rule.second_look != "allow"]
        if places and self.second_look is None:
            raise ValueError(
                f"{places[0]}.second_look: the policy has no second_look that says which model looks"
            )
        if self.second_look is not None and not places:
            raise ValueError(
                "second_look: no rule says what follows from it; give a category a rule such as"
                " second_look: {review: 0.2, block: 0.8}"
            )
        return self

    @model_validator(mode="after")
    def _whole(self) -> Policy:
        used = {each.category for each in self.words.lists} | {each.category for each in self.pictures.lists}
        used |= set() if self.second_look is None else set(self.second_look.describe)
        used |= {category for each in self.pictures.classifiers for category in each.labels.values()}
        if nameless := sorted(used - set(self.rules)):
            raise ValueError(f"rules has no entry for {', '.join(nameless)}")
        for tenant, changes in self.tenants.items():
            if unknown := sorted(set(changes) - set(self.rules)):
                raise ValueError(f"tenants.{tenant}: rules has no entry for {', '.join(unknown)}")
        return self


def parse(text: str, origin: str, folder: Path | None = None) -> Policy:
    """The policy that YAML says. Relative paths are in `folder`; None: they stay.

    Raises `InvalidPolicy`, which names `origin`, and each field at fault.
    """
    try:
        document = load(text)
    except InvalidYaml as error:
        raise InvalidPolicy(f"{origin}: {error}") from None
    if not isinstance(document, dict):
        raise InvalidPolicy(f"{origin} has no fields: a policy needs name, version and rules")
    try:
        return Policy.model_validate(document, context={"folder": folder})
    except ValidationError as error:
        raise InvalidPolicy(f"{origin}: {faults_of(error, _NAMES, _PATTERNS)}") from None


def read(path: Path) -> Policy:
    """The policy in a file, with the paths of all files that it names.

    Raises `InvalidPolicy` if it cannot be read or used, and for a file that it names and that is
    missing or empty.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_POLICY_BYTES + 1)
    except OSError as error:
        raise InvalidPolicy(f"{path} cannot be read: {error.strerror}") from None
    if len(raw) > MAX_POLICY_BYTES:
        raise InvalidPolicy(f"{path} is larger than {MAX_POLICY_BYTES} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidPolicy(f"{path} is not UTF-8") from None
    policy = parse(text, str(path), path.absolute().parent)
    for place, named in policy.files():
        if fault := _unusable(named):
            raise InvalidPolicy(f"{path}: {place}: {named} {fault}", (file for _, file in policy.files()))
    return policy


def source_of(path: Path) -> str:
    """A file as findings name it: its name, and the first digits of its SHA-256. Raises `InvalidPolicy`."""
    try:
        with path.open("rb") as file:
            return f"{path.name}@{hashlib.file_digest(file, 'sha256').hexdigest()[:8]}"
    except OSError as error:
        raise InvalidPolicy(f"{path} cannot be read: {error.strerror}") from None


def schema() -> dict[str, Any]:
    """The JSON schema of a policy, for editors and for checks before it is deployed."""
    document = Policy.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document, "title": "Darkroom policy"}


def _unusable(path: Path) -> str | None:
    """Why a named file cannot be used, or None."""
    try:
        if not path.is_file():
            return "is no file" if path.exists() else "does not exist"
        with path.open("rb") as file:
            return None if file.read(1) else "is empty"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _names(*models: type[BaseModel]) -> frozenset[str]:
    return frozenset(name for model in models for name in model.model_fields)


_NAMES: Final = _names(
    Policy, Rule, Thresholds, WordList, HashList, Head, Classifier, Words, Looks, WhenAway, SecondLookRules
)

"""The YAML of a policy, read strictly: what is easily misread is refused with its line. Pure.

YAML 1.1 reads `on`, `off`, `yes` and `no` as truth values, keeps the last of two equal keys, and lets
aliases blow a small file up. Here such words stay words, equal keys are an error, and so are aliases.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, Final

import yaml

MAX_DEPTH: Final = 20
"""The deepest nesting. A policy needs six levels."""
_BOOLEAN: Final = "tag:yaml.org,2002:bool"
_TIMESTAMP: Final = "tag:yaml.org,2002:timestamp"


class InvalidYaml(ValueError):
    """The text cannot be used. The message begins with the place, if there is one."""


class _Strict(yaml.SafeLoader):
    """A loader of JSON's types that refuses aliases, equal keys and deep nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: int) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise self._here("an alias (*name) is not supported: write it out")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._here(f"nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _here(self, reason: str) -> InvalidYaml:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        return _fault(event.start_mark, reason)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise _fault(key.start_mark, f"the name of a field must be text, not {name!r}")
            if name in seen:
                raise _fault(key.start_mark, f"{name} stands here a second time")
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


_Strict.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in (_BOOLEAN, _TIMESTAMP)]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Strict.add_implicit_resolver(_BOOLEAN, re.compile(r"(?:true|false)\Z"), ["t", "f"])


def load(text: str) -> Any:
    """The document that the YAML says. Raises `InvalidYaml`."""
    try:
        return yaml.load(text, _Strict)  # noqa: S506 - a safe loader, made stricter
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f"line {mark.line + 1}: "
        raise InvalidYaml(f"{where}it is not YAML: {getattr(error, 'problem', None) or error}") from None


def _fault(mark: Any, reason: str) -> InvalidYaml:
    return InvalidYaml(f"line {mark.line + 1}: {reason}")

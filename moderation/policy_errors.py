"""What is wrong with a policy, in words for its author. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError

UNION: Final = "<"
"""The first character of the names that unions give to their members. They are left out of places."""
MAX_FAULTS: Final = 10
"""The most faults of one message."""

_WORDS: Final[Mapping[str, str]] = {
    "missing": "is missing",
    "less_than_equal": "must be at most {le:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be above {gt:g}",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text: put it in quotes",
    "path_type": "must be the path of a file",
    "literal_error": "must be {expected}",
    "tuple_type": "must be a list, of lines that begin with a dash",
    "dict_type": "must hold fields",
    "model_type": "must hold fields",
    "model_attributes_type": "must hold fields",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
}
"""By kind of pydantic's errors. `{}` takes a value of the error's context."""


def faults_of(error: ValidationError, names: Collection[str], patterns: Mapping[str, str]) -> str:
    """The faults of `error` in one line, each as `place: what is wrong`.

    `names` are the fields of a policy, for suggestions. `patterns` says what a text must be, by its
    pattern.
    """
    faults = list(dict.fromkeys(_faults(error, names, patterns)))
    more = len(faults) - MAX_FAULTS
    return "; ".join(faults[:MAX_FAULTS]) + (f"; and {more} more" if more > 0 else "")


def place_of(location: tuple[int | str, ...]) -> str:
    """The place in the file: `words.lists[0].file`, with lists counted from 0."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "[key]" and not part.startswith(UNION):
            text += f".{part}" if text else part
    return text or "the policy"


def _faults(error: ValidationError, names: Collection[str], patterns: Mapping[str, str]) -> Iterator[str]:
    for each in error.errors(include_url=False, include_input=False):
        yield f"{place_of(each['loc'])}: {_reason(each, names, patterns)}"


def _reason(fault: Any, names: Collection[str], patterns: Mapping[str, str]) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    match kind:
        case "extra_forbidden":
            near = difflib.get_close_matches(str(fault["loc"][-1]), names, n=1)
            return "there is no such field" + (f"; did you mean {near[0]}?" if near else "")
        case "string_pattern_mismatch":
            return f"must be {patterns.get(context['pattern'], context['pattern'])}"
        case "value_error":
            return str(context["error"])
        case _ if kind in _WORDS:
            return _WORDS[kind].format(**context)
    return str(fault["msg"])

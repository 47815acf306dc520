"""The types of settings' values: how each is written in a variable, and what is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from contracts.addresses import parse_networks

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65535)]


def _networks(text: str) -> str:
    parse_networks(text)
    return text


def delays_of(text: str) -> tuple[float, ...]:
    """The seconds that `RetryDelays` names. Raises `ValueError`."""
    delays = tuple(float(part) for part in text.split(","))
    if not all(0 < delay < 1e6 for delay in delays):
        raise ValueError("every delay must be above 0 seconds")
    return delays


def _delays_text(text: str) -> str:
    delays_of(text)
    return text


@dataclass(frozen=True, slots=True)
class LoraSource:
    """Where an adapter comes from: a folder, a safetensors file, or a hub id at a commit (`revision`)."""

    name: str
    source: str
    revision: str | None


_LORA: Final = re.compile(r"([A-Za-z0-9][\w.-]{0,63})=([^\s,@=]+)(?:@([0-9a-f]{40}))?", re.ASCII)


def lora_sources_of(text: str) -> tuple[LoraSource, ...]:
    """The adapters that `LoraSources` names. Raises `ValueError`."""
    sources = []
    for part in filter(None, map(str.strip, text.split(","))):
        match = _LORA.fullmatch(part)
        if match is None:
            raise ValueError(
                f"{part} is not name=folder, name=file.safetensors or name=owner/name@commit, a commit of 40 hex digits"
            )
        sources.append(LoraSource(*match.groups()))
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise ValueError("every adapter needs a name of its own")
    return tuple(sources)


def _loras_text(text: str) -> str:
    lora_sources_of(text)
    return text


_ALIAS: Final = re.compile(r"([^\s,=]{1,200})=([^\s,=]{1,200})")


def aliases_of(text: str) -> dict[str, str]:
    """The model of each alias that `ModelAliases` names. Raises `ValueError`."""
    aliases: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        match = _ALIAS.fullmatch(part)
        if match is None:
            raise ValueError(f"{part} is not alias=model")
        if match[1] in aliases:
            raise ValueError(f"{match[1]} is named twice")
        aliases[match[1]] = match[2]
    if chained := sorted(aliases.keys() & set(aliases.values())):
        raise ValueError(f"{chained[0]} is both an alias and what one stands for")
    return aliases


def _aliases_text(text: str) -> str:
    aliases_of(text)
    return text


ModelAliases = Annotated[str, AfterValidator(_aliases_text)]
"""Other names of models as `alias=model`, separated by commas."""
LoraSources = Annotated[str, AfterValidator(_loras_text)]
"""Adapters as `name=source`, separated by commas."""
RetryDelays = Annotated[str, AfterValidator(_delays_text)]
"""Seconds, separated by commas."""
Networks = Annotated[str, AfterValidator(_networks)]
"""Networks in CIDR notation, separated by commas."""

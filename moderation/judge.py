"""The judge of a policy: layer 3's lists and classifiers, composed, on threads of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from contracts.moderation import Finding, Layer
from contracts.ports.picture_judge import Look, PictureToJudge
from moderation.hashes.known import KnownLists
from moderation.hashes.list_file import InvalidList
from moderation.pictures.head import read_head
from moderation.pictures.onnx_model import open_classifier
from moderation.policy import InvalidPolicy, Policy
from telemetry import metrics
from telemetry.logs import get_logger

log = get_logger(__name__)

AT_A_TIME: Final = 2
"""Looks that run at the same time. Each takes a core."""
START_WITHIN: Final = 20
"""How many time limits of a look an image may wait for a thread."""


class Looker(Protocol):
    """One list or one classifier."""

    def look(self, picture: PictureToJudge) -> Sequence[Finding]:
        """What it finds in the image. Called on any thread. May raise any exception."""
        ...


class LayeredJudge:
    """The `PictureJudge` that asks the lookers of each layer. A layer's look has `limit_s` seconds.

    A look that takes longer goes on, and keeps its thread until it ends.
    """

    def __init__(
        self, layers: Mapping[Layer, Sequence[Looker]], limit_s: float, *, embeds: bool = False
    ) -> None:
        """`embeds`: a looker compares embeddings."""
        self._layers = {layer: tuple(lookers) for layer, lookers in layers.items() if lookers}
        self._limit_s = limit_s
        self.embeds = embeds
        self._threads = ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="moderation")
        self._free = asyncio.Semaphore(AT_A_TIME)

    async def look(self, picture: PictureToJudge) -> Look:
        """What all layers find in the image."""
        looks = await asyncio.gather(
            *(self._look(layer, lookers, picture) for layer, lookers in self._layers.items())
        )
        away = tuple(layer for layer, (_, is_away) in zip(self._layers, looks, strict=True) if is_away)
        return Look(tuple(finding for found, _ in looks for finding in found), away)

    async def _look(
        self, layer: Layer, lookers: Iterable[Looker], picture: PictureToJudge
    ) -> tuple[list[Finding], bool]:
        """What one layer finds, and whether it could not look in full."""
        found: list[Finding] = []
        try:
            async with asyncio.timeout(self._limit_s * START_WITHIN):
                await self._free.acquire()
        except TimeoutError:
            _away(layer, "busy")
            return found, True
        work = asyncio.get_running_loop().run_in_executor(self._threads, _ask, layer, lookers, picture, found)
        work.add_done_callback(lambda _: self._free.release())
        try:
            async with asyncio.timeout(self._limit_s):
                failed = await asyncio.shield(work)
        except TimeoutError:
            _away(layer, "timeout")
            return list(found), True
        for error in failed:
            _away(layer, "failed", error)
        return found, bool(failed)

    def close(self) -> None:
        """Look at no more images."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def open_judge(policy: Policy, clip: str = "") -> LayeredJudge:
    """The judge of a policy. `clip` names the model of the embeddings that pictures have; empty: none.

    Raises `InvalidPolicy`, which names the file, for a list or a model that cannot be used.
    """
    looks = policy.pictures
    layers: dict[Layer, list[Looker]] = {}
    embeds = bool(looks.heads)
    try:
        if looks.lists:
            lists = KnownLists(looks.lists, clip)
            layers["hashes"] = [lists]
            embeds = embeds or lists.embed
    except InvalidList as error:
        raise InvalidPolicy(str(error)) from error
    models: list[Looker] = []
    for head in looks.heads:
        opened = read_head(head.file, clip)
        if opened.category not in policy.rules:
            raise InvalidPolicy(f"{head.file} finds {opened.category}, and rules has no entry for it")
        models.append(opened)
    models.extend(open_classifier(each) for each in looks.classifiers)
    if models:
        layers["pictures"] = models
    return LayeredJudge(layers, looks.time_limit_s, embeds=embeds)


def _away(layer: Layer, cause: str, error: str | None = None) -> None:
    metrics.LAYER_AWAY.labels(layer, cause).inc()
    log.warning("moderation_layer_away", layer=layer, cause=cause, error=error)


def _ask(layer: Layer, lookers: Iterable[Looker], picture: PictureToJudge, found: list[Finding]) -> list[str]:
    """On a thread: ask each in turn, and answer the errors of those that failed.

    Findings go to `found` as they come, so that a look that is cut short has those made before.
    """
    failed = []
    with metrics.LAYER_SECONDS.labels(layer).time():
        for each in lookers:
            try:
                found.extend(each.look(picture))
            except Exception as error:  # noqa: BLE001 - whatever a model raises, the layer is away
                failed.append(type(error).__name__)
    return failed

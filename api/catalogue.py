"""Which models are served: the directory, remembered for a second, so that no request waits for Redis to learn it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from contracts.clock import Clock
from contracts.errors import ModelNotFound, ModelUnavailable, StoreUnavailable
from contracts.models import ServedModel
from contracts.ports import ModelDirectory
from telemetry import metrics

FRESH_S: Final = 1.0
STALE_S: Final = 60.0
"""How long the last good answer is served while the directory is away."""
COME_BACK_S: Final = 5.0


class Catalogue:
    """A view of the `ModelDirectory` with one refresh at a time, however many ask."""

    def __init__(
        self,
        directory: ModelDirectory,
        clock: Clock,
        default_model: str | None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._aliases = dict(aliases or {})
        self._default_model = None if default_model is None else self.real_name(default_model)
        self._known: Sequence[ServedModel] | None = None
        self._named: tuple[Sequence[ServedModel], dict[str, ServedModel]] = (), {}
        self._unreadable: frozenset[str] = frozenset()
        self._good_at = 0.0
        self._tried_at = 0.0
        self._refresh: asyncio.Task[Sequence[ServedModel]] | None = None

    async def models(self) -> Sequence[ServedModel]:
        """Every announced model, at most `FRESH_S` seconds old, or `STALE_S` while the directory is away.

        Raises `StoreUnavailable`.
        """
        if self._known is not None and self._clock.monotonic() - self._tried_at < FRESH_S:
            return self._known
        if self._refresh is None or self._refresh.done():
            self._refresh = asyncio.create_task(self._read())
        # Shielded: a caller that gives up must not end the refresh of the others.
        return await asyncio.shield(self._refresh)

    def real_name(self, name: str) -> str:
        """What the alias `name` stands for, or `name` where it is none."""
        return self._aliases.get(name, name)

    def aliases_of(self, model: str) -> list[str]:
        """The other names of `model`, in order."""
        return sorted(alias for alias, real in self._aliases.items() if real == model)

    async def resolve(self, name: str | None) -> ServedModel:
        """The model called `name`, under its own name or an alias, or the default one.

        Raises `ModelNotFound`, or `ModelUnavailable` while nothing is announced, or `StoreUnavailable`. A model whose
        workers are all gone is still known.
        """
        models = await self.models()
        if models is not self._named[0]:
            self._named = models, {served.spec.name: served for served in models}
        known = self._named[1]
        wanted = name or self._default_model
        if wanted in self._unreadable:
            raise ModelUnavailable(
                "The workers of this model are of a newer version than this server, which waits for its upgrade.",
                retry_after_s=COME_BACK_S,
                param="model",
            )
        if not known:
            raise ModelUnavailable("No worker has announced a model yet.", retry_after_s=COME_BACK_S)
        if name is None:
            name = self._default_model
            if name is None:
                # One that somebody serves, if there is any: others are remembered long after their last worker.
                return max(known.values(), key=lambda served: (bool(served.workers), served.awaited))
            if name not in known:
                raise ModelUnavailable(
                    "The default model has not been announced yet.", retry_after_s=COME_BACK_S, param="model"
                )
        if (real := self.real_name(name)) in known:
            return known[real]
        if real != name:
            # The operator promises it: a client that hears 404 would take its request for wrong.
            raise ModelUnavailable(
                f"{name} stands for {real}, which has not been announced yet.",
                retry_after_s=COME_BACK_S,
                param="model",
            )
        names = [*known, *(alias for alias, model in self._aliases.items() if model in known)]
        raise ModelNotFound(
            f"There is no such model; known are {', '.join(names)}.", param="model", details={"models": names}
        )

    async def _read(self) -> Sequence[ServedModel]:
        try:
            announced = await self._directory.models()
        except StoreUnavailable:
            now = self._clock.monotonic()
            if self._known is None or now - self._good_at > STALE_S:
                self._known = None
                raise
            metrics.REPAIRED.labels("catalogue").inc()
            self._tried_at = now
            return self._known
        self._known, self._unreadable = announced.models, announced.unreadable
        self._good_at = self._tried_at = self._clock.monotonic()
        return self._known

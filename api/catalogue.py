"""Which models are served.

The model directory is remembered for a second, so requests need not wait for Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from contracts.errors import ModelNotFound, ModelUnavailable, StoreUnavailable
from contracts.models import ServedModel
from contracts.ports.clock import Clock
from contracts.ports.model_directory import ModelDirectory
from telemetry import metrics

FRESH_S: Final = 1.0
"""The age in seconds at which the directory is read again."""
STALE_S: Final = 60.0
"""How long the last good answer is used while the directory is unavailable, in seconds."""
COME_BACK_S: Final = 5.0
"""When a client should come again for a model that is not announced yet, in seconds."""


class Catalogue:
    """A cached view of the `ModelDirectory`, with one refresh at a time for all requests.

    `aliases` are other names for models. `default_model` (a name or an alias) is for requests that name none.
    """

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
        """Every announced model, at most `FRESH_S` seconds old, or `STALE_S` while the directory is
        unavailable.

        Raises `StoreUnavailable`.
        """
        if self._known is not None and self._clock.monotonic() - self._tried_at < FRESH_S:
            return self._known
        if self._refresh is None or self._refresh.done():
            self._refresh = asyncio.create_task(self._read())
        # Shielded: a caller that gives up must not end the refresh of the others.
        return await asyncio.shield(self._refresh)

    def real_name(self, name: str) -> str:
        """The model that the alias `name` stands for; `name` itself if it is no alias."""
        return self._aliases.get(name, name)

    def aliases_of(self, model: str) -> list[str]:
        """The aliases of `model`, sorted."""
        return sorted(alias for alias, real in self._aliases.items() if real == model)

    async def resolve(self, name: str | None) -> ServedModel:
        """The model with the name or alias `name` (None: the default model).

        A model whose workers are all gone is still known. Raises `ModelNotFound`,
        `ModelUnavailable` (not announced yet), and `StoreUnavailable`.
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
                # Prefer a model with workers: others are remembered long after their last worker.
                return max(known.values(), key=lambda served: (bool(served.workers), served.awaited))
            if name not in known:
                raise ModelUnavailable(
                    "The default model has not been announced yet.", retry_after_s=COME_BACK_S, param="model"
                )
        if (real := self.real_name(name)) in known:
            return known[real]
        if real != name:
            # The operator has configured this alias, so the request is right: 404 would be misleading.
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

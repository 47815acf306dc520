"""The documents that describe the interface, as they are sent. Whoever asks needs no key, so asking must cost next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from contracts.models import ModelSpec, ServedModel


class WrittenDocuments:
    """Each document by its name, written anew when the models have changed."""

    def __init__(self) -> None:
        self._specs: Sequence[ModelSpec] = ()
        self._written: dict[str, bytes] = {}

    def get(self, name: str, models: Sequence[ServedModel], write: Callable[[], str]) -> bytes:
        """The document `name` with the limits of `models`; `write` is asked for it where that is not known."""
        specs = [served.spec for served in models]
        if specs != self._specs:
            self._specs, self._written = specs, {}
        if name not in self._written:
            self._written[name] = write().encode()
        return self._written[name]

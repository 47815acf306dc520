"""The documents that describe the API, as they are sent.

They need no API key, so a request for one must cost almost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from contracts.models import ModelSpec, ServedModel


class WrittenDocuments:
    """The documents by name. They are written again when the models have changed."""

    def __init__(self) -> None:
        self._specs: Sequence[ModelSpec] = ()
        self._written: dict[str, bytes] = {}

    def get(self, name: str, models: Sequence[ServedModel], write: Callable[[], str]) -> bytes:
        """The document `name` with the limits of `models`. `write` makes it if it is not remembered."""
        specs = [served.spec for served in models]
        if specs != self._specs:
            self._specs, self._written = specs, {}
        if name not in self._written:
            self._written[name] = write().encode()
        return self._written[name]

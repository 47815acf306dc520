"""The port of the store that remembers under which name a file was published once it was signed."""

from __future__ import annotations

from typing import Protocol


class SignedNames(Protocol):
    """From an unsigned file to the name of the signed one. Raises `StoreUnavailable`."""

    async def get(self, source: str) -> str | None:
        """The name that the signed file of `source` has; None: it was not signed, or long ago."""
        ...

    async def put(self, source: str, name: str, instead_of: str | None = None) -> str:
        """Remember the name, for as long as images are kept. Answers the name that counts.

        It is another one where somebody else was first. `instead_of` is the name that was known, if its
        file is gone.
        """
        ...

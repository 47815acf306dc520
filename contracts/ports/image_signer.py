"""The port of what signs image files."""

from __future__ import annotations

from typing import Protocol

from contracts.requests import GenerationRequest


class SigningFailed(Exception):
    """An image cannot be signed. The message says why, and holds no secret."""


class ImageSigner(Protocol):
    """Signs image files in somebody's name. Any thread may call it."""

    @property
    def fingerprint(self) -> str:
        """Differs for another signer, and for another choice of what is said."""
        ...

    def says(self, request: GenerationRequest) -> bytes:
        """What a signature says of an image of the request. Equal for equal statements."""
        ...

    def sign(self, data: bytes, content_type: str, request: GenerationRequest) -> bytes:
        """The file `data` with a signature. Its pixels stay as they are. Raises `SigningFailed`."""
        ...

"""Reads the content credentials of stored images, for the API."""

from __future__ import annotations

import asyncio
from typing import Final

from contracts.errors import NotInstalled, SettingsError
from contracts.settings import ApiSettings
from moderation.provenance.trust import anchors
from views.provenance import ProvenanceView

UNREADABLE: Final = "unreadable"
"""The problem of credentials that are damaged beyond reading. It is no code of the C2PA specification."""


class ProvenanceReader:
    """Reads credentials, and judges them by the trusted certificates of the settings."""

    def __init__(self, settings: ApiSettings) -> None:
        """Raises `SettingsError` where the certificates cannot be read."""
        try:
            self._trusted = anchors(settings.c2pa_trust_anchors)
        except ValueError as error:
            raise SettingsError(f"DARKROOM_C2PA_TRUST_ANCHORS: {error}") from error

    async def read(self, data: bytes, content_type: str) -> ProvenanceView:
        """The credentials in the file.

        Credentials that cannot be read are `invalid`. Raises `NotInstalled`.
        """
        try:
            # Its library is an extra.
            from moderation.provenance.reading import Unreadable, read
        except ModuleNotFoundError as error:
            raise NotInstalled("The server reads no content credentials: it lacks the extra c2pa.") from error
        try:
            return await asyncio.to_thread(read, data, content_type, self._trusted)
        except Unreadable:
            return ProvenanceView(signed=True, validity="invalid", problems=(UNREADABLE,))

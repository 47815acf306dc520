"""Finds the browser for the tests of the playground."""

from __future__ import annotations

import shutil

from cli.services.process import ServiceError


def find_chromium() -> str:
    """Returns the path of a Chromium. Raises `ServiceError`."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    raise ServiceError("There is no Chromium: install chromium (on Debian: apt-get install chromium).")

"""The browser that the tests of the playground drive."""

from __future__ import annotations

import shutil

from cli.services.process import ServiceError


def find_chromium() -> str:
    """The path of a Chromium. Raises `ServiceError`."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise ServiceError("There is no Chromium: install chromium (on Debian: apt-get install chromium).")

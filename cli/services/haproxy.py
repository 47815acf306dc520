"""HAProxy, for the test of the example in docs/haproxy.cfg."""

from __future__ import annotations

import os
import shutil

from cli.services.process import ServiceError


def find_haproxy() -> str:
    """The path of the program. Raises `ServiceError`."""
    # Debian has it where only root's PATH leads.
    found = shutil.which("haproxy", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))
    if found is None:
        raise ServiceError("There is no haproxy: install the package haproxy.")
    return found

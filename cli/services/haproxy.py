"""Finds HAProxy for the test of the example in docs/haproxy.cfg."""

from __future__ import annotations

import os
import shutil

from cli.services.process import ServiceError


def find_haproxy() -> str:
    """Returns the path of the program. Raises `ServiceError`."""
    # On Debian it is in a folder that only root has on the PATH.
    path = shutil.which("haproxy", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))
    if path is None:
        raise ServiceError("There is no haproxy: install the package haproxy.")
    return path

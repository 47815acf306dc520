"""Which servers the newer runs ask for, and which program of which Debian suite each is."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.newer.suites import CACHE, NotProvided, inside, provide

RABBIT_BIN: Final = "/usr/lib/rabbitmq/bin"


@dataclass(frozen=True)
class Server:
    """A version of a server: the suite that has it, its programs, and how it tells its version."""

    name: str
    version: str
    suite: str
    programs: tuple[str, ...]
    tells: tuple[str, ...]


RABBIT_PROGRAMS: Final = (f"{RABBIT_BIN}/rabbitmq-server", f"{RABBIT_BIN}/rabbitmqctl", "/usr/bin/epmd")
RABBIT_TELLS: Final = (f"{RABBIT_BIN}/rabbitmqctl", "version")
SERVERS: Final = {
    f"{server.name} {server.version}": server
    for server in (
        Server("RabbitMQ", "4.0", "trixie", RABBIT_PROGRAMS, RABBIT_TELLS),
        Server("RabbitMQ", "4.3", "sid", RABBIT_PROGRAMS, RABBIT_TELLS),
        Server("Redis", "8.0", "sid", ("/usr/bin/redis-server",), ("/usr/bin/redis-server", "--version")),
        Server("Valkey", "9.1", "sid", ("/usr/bin/valkey-server",), ("/usr/bin/valkey-server", "--version")),
    )
}


def told_version(output: str) -> str:
    """The version in what a server's program says of itself. Raises `NotProvided`."""
    found = re.search(r"(?:v=|^)(\d+\.\d+\.\d+)", output.strip(), re.MULTILINE)
    if found is None:
        raise NotProvided(f"This names no version: {output[-200:]!r}")
    return found[1]


def is_version(wanted: str, found: str) -> bool:
    """Whether `found` is one of `wanted`: 4.3 means 4.3.6, and not 4.30.1."""
    return found.split(".")[: wanted.count(".") + 1] == wanted.split(".")


def provide_servers(names: tuple[str, ...]) -> Path:
    """A folder with the programs of these servers, and no others. Raises `NotProvided`, also where the suite has gone on to
    another version."""
    folder = CACHE / "bin" / "-".join(name.replace(" ", "-").lower() for name in names)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        server = SERVERS[name]
        root = provide(server.suite)
        done = subprocess.run(inside(root, *server.tells), capture_output=True, text=True, check=False)
        version = told_version(done.stdout or done.stderr)
        if not is_version(server.version, version):
            raise NotProvided(
                f"Debian {server.suite} has {server.name} {version}, and {server.version} is asked for: name a version "
                "and a suite that there are in tests/newer/versions.py, and the version in the chart and compose.yaml."
            )
        for program in server.programs:
            wrapper = folder / Path(program).name
            wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(inside(root, program))} "$@"\n')
            wrapper.chmod(0o755)
    return folder

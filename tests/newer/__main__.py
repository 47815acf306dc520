"""The tests on what users run, which is newer than what this machine has packages for: `make test-newer`.

    python -m tests.newer [--provide] [RUN ...]

Each run is a set of servers, or a Python, with the suites that depend on it. `--provide` makes what they need and ends. A
version that cannot be had is an error, never a skip.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cli.services.process import FOLDER_SETTING
from tests.newer.python import environ, image_version, provide_python
from tests.newer.suites import ROOT, NotProvided, inside, provide
from tests.newer.versions import provide_servers

SERVER_SUITES: Final = (
    "backends",
    "broker",
    "cache",
    "faults",
    "integration",
    "search",
    "store",
    "webhooks",
    "worker",
)
TORCHLESS_SUITES: Final = (
    "api", "backends", "broker", "cache", "client", "contracts", "duties", "faults_api", "runtime", "scheduler", "search", "second_look",
    "store", "telemetry", "views", "webhooks",
)  # fmt: skip
PYTEST: Final = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
TWO: Final = ("--numprocesses", "2", "--dist", "loadfile")


@dataclass(frozen=True)
class Run:
    """What `start` answers for the versions is run: a command line and its environment."""

    name: str
    versions: tuple[str, ...]
    start: Callable[[tuple[str, ...]], tuple[list[str], dict[str, str]]]

    @property
    def title(self) -> str:
        return ", ".join(self.versions)


def on_servers(versions: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """The suites that talk to servers, on these. Raises `NotProvided`."""
    folder = provide_servers(versions)
    return [sys.executable, *PYTEST, *TWO, *paths(SERVER_SUITES)], {**os.environ, FOLDER_SETTING: str(folder)}


def on_python(_: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """The suites that need no torch, on the Python of the images, with the servers of its suite. Raises `NotProvided`."""
    root = provide("trixie")
    python = provide_python(root)
    return inside(root, str(python), *PYTEST, *TWO, *paths(TORCHLESS_SUITES)), environ(PYTHONPATH=str(ROOT))


def paths(suites: tuple[str, ...]) -> list[str]:
    return [f"tests/{suite}" for suite in suites]


RUNS: Final = (
    Run("redis", ("RabbitMQ 4.3", "Redis 8.0"), on_servers),
    Run("valkey", ("RabbitMQ 4.0", "Valkey 9.1"), on_servers),
    Run("python", (f"Python {image_version()}",), on_python),
)
"""All versions with two sets of servers: each broker and each store is in one."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.newer", description=__doc__)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"of {', '.join(run.name for run in RUNS)}")
    parser.add_argument("--provide", action="store_true", help="make what the runs need, and end")
    given = parser.parse_args()
    if unknown := set(given.runs) - {run.name for run in RUNS}:
        parser.error(f"there is no run {', '.join(sorted(unknown))}")
    outcomes: list[tuple[str, int, float]] = []
    for run in RUNS:
        if given.runs and run.name not in given.runs:
            continue
        try:
            command, environment = run.start(run.versions)
        except NotProvided as error:
            sys.stderr.write(f"{run.title} is not there: {error}\n")
            return 1
        if not given.provide:
            print(f"--- {run.title}", flush=True)
            began = time.monotonic()
            done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
            outcomes.append((run.title, done.returncode, time.monotonic() - began))
    for title, status, seconds in outcomes:
        print(f"{title}: {'passed' if status == 0 else f'failed ({status})'} in {seconds / 60:.1f} min")
    return int(any(status for _, status, _ in outcomes))


if __name__ == "__main__":
    sys.exit(main())

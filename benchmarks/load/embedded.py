"""A platform of our own to load, where none is given."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from benchmarks import report
from benchmarks.cores import cores, pin
from cli.platform import Platform, started
from cli.services import process
from cli.services.rabbitmq import RabbitServer


@contextmanager
def platform(
    folder: Path, broker: str, workers: int = 1, environ: dict[str, str] | None = None, pinned: bool = True
) -> Iterator[Platform]:
    """API, workers with the embedded model unless `DARKROOM_MODEL` names another, and their services, on free ports; ended on leaving. The first engine has a core of
    its own, so that the load does not slow it: what is measured is the platform, not the fight for cores. Not `pinned`: all share
    all cores, for engines that only sleep."""
    with ExitStack() as stack:
        source = {
            **os.environ,
            "DARKROOM_PORT": str(process.free_port()),
            "DARKROOM_MODEL": os.environ.get("DARKROOM_MODEL", str(report.ROOT / "models" / "emoji-turbo")),
            "DARKROOM_LOG_LEVEL": "warning",
            # The generator listens for webhooks on this machine.
            "DARKROOM_WEBHOOK_ALLOW_NETWORKS": "127.0.0.1/32",
            **(environ or {}),
        }
        if broker == "rabbitmq":
            rabbit = RabbitServer(folder / "rabbitmq")
            rabbit.start()
            stack.callback(rabbit.stop)
            source["DARKROOM_BROKER_URL"] = rabbit.url
        running = stack.enter_context(started(folder / "platform", workers, source))
        running.wait_ready()
        if pinned and (os.cpu_count() or 1) > 1 and workers == 1:
            isolate(running)
        yield running


def isolate(running: Platform) -> None:
    """The engine to a core of its own, all else and ourselves to the others."""
    _, rest = cores()
    for child in running.children:
        if child.process is not None:
            below = psutil.Process(child.process.pid).children(recursive=True)
            pin(child.process.pid, below[0].pid if below else -1)
    os.sched_setaffinity(0, rest)

"""The list of faults, continued: disks that are full. They need root, for file systems of their own."""

from __future__ import annotations

import errno
import hashlib
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from cli.services.redis import RedisServer
from tests.faults.round import Round, Row
from tests.faults.rows_engine import log_size, logged
from tests.faults.site import final

FULL_S: Final = 3.0
"""A disk stays full for so long."""


@contextmanager
def small_disk(folder: Path, mebibytes: int = 4) -> Iterator[Path]:
    """A file system of that size at `folder`, and a file that fills it as far as wished."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "darkroom", str(folder)], check=True)
    try:
        yield folder / "ballast"
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(ballast: Path) -> None:
    """Write to the file until its disk is full."""
    try:
        with ballast.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def _whole(one: Round, folder: Path) -> None:
    """Every picture under its name is all that its name promises."""
    for path in folder.glob("??/[0-9a-f]*.*"):
        with suppress(FileNotFoundError):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            one.find(path.stem == digest, f"half-written: {path.name}")


def _refused_well(one: Round, what: str, since: int) -> None:
    """Of the answers from number `since` on, some were 503, and none anything else than that or accepted."""
    answers = [each.status for load in one.loads for each in load.submits][since:]
    one.find(503 in answers, f"{what}: nobody was refused")
    one.find(set(answers) <= {200, 202, 503}, f"{what}: answered {sorted(set(answers))}")


def blobs_and_alarm(one: Round) -> None:
    """Pictures: the workers insist until there is room. RabbitMQ: its alarm blocks publishers, so submits are refused."""
    site, folder = one.site, one.site.folder / "small"
    with small_disk(folder) as ballast:
        site.end()
        site.extra = {**one.row.settings, "DARKROOM_BLOB_DIR": str(folder)}
        site.ensure()
        since = {name: log_size(site, name) for name in ("worker-1", "worker-2")}
        try:
            load = one.load()
            load.after(one.some(0.1, 0.3))
            one.fault("blob disk full")
            fill(ballast)
            time.sleep(FULL_S)
            _whole(one, folder)
            ballast.unlink()
            away = [
                event for name, at in since.items() for event in logged(site, name, at).of("blob_store_away")
            ]
            one.find(bool(away), "no worker met the full disk")
            load.join()
            one.fault("RabbitMQ disk alarm")
            answered = len(load.submits)
            site.rabbit.control("eval", "rabbit_alarm:set_alarm({{resource_limit, disk, node()}, []}).")
            # Workers at work would take the jobs from the store: then they are accepted without a message.
            for name in since:
                site.send(name, signal.SIGSTOP)
            one.load(seconds=0.5, jobs=10).join()
            for name in since:
                site.send(name, signal.SIGCONT)
            site.rabbit.control("eval", "rabbit_alarm:clear_alarm({resource_limit, disk, node()}).")
            _refused_well(one, "RabbitMQ disk alarm", answered)
            one.healed()
            one.load(seconds=1.0, jobs=max(1, one.jobs // 2))
            one.end()
            left = [path.name for path in folder.rglob("*.part")]
            one.find(not left, f"left behind: {left}")
        finally:
            site.end()
            site.extra = {}


def pictures_past_the_deadline(one: Round) -> None:
    """The disk of the pictures stays full until the jobs' time is over: each says why, and takes no room afterwards."""
    site, folder = one.site, one.site.folder / "small-for-long"
    one.history.allowed = frozenset({"succeeded", "failed"})
    with small_disk(folder) as ballast:
        site.end()
        site.extra = {**one.row.settings, "DARKROOM_BLOB_DIR": str(folder)}
        site.ensure()
        try:
            fill(ballast)
            one.fault("blob disk full")
            load = one.load(seconds=2.0, repeats=False)
            load.join()
            until = time.monotonic() + float(one.row.settings["DARKROOM_JOB_TTL_S"]) + 5.0
            while site.counts().live and time.monotonic() < until:
                time.sleep(0.1)
            one.find(not site.counts().live, "jobs outlive their deadline")
            ended = site.records(one.history.began).values()
            codes = {final(record, "").code for record in ended}
            one.find(codes == {"blob_store_full"}, f"they ended with {sorted(codes)}")
            ballast.unlink()
            one.healed()
            one.load(seconds=1.0, jobs=max(1, one.jobs // 2), repeats=False)
            one.end()
            succeeded = [each for each in one.history.finals.values() if each.status == "succeeded"]
            pictures = len(list(folder.glob("??/[0-9a-f]*.*")))
            one.find(pictures <= len(succeeded), f"{pictures} pictures of {len(succeeded)} jobs")
        finally:
            site.end()
            site.extra = {}


def append_only_file(one: Round) -> None:
    """The disk of the state Redis: it answers MISCONF to every write until there is room again."""
    site = one.site
    usual, folder = site.state, site.folder / "small-state"
    with small_disk(folder, 16) as ballast:
        site.end()
        usual.stop()
        site.state = RedisServer(folder, usual.port)
        try:
            site.state.start()
            site.ensure()
            one.history.before = site.counts()
            load = one.load(seconds=8.0)
            load.after(one.some(0.1, 0.3))
            one.fault("disk of the append-only file full")
            answered = len(load.submits)
            fill(ballast)
            time.sleep(FULL_S)
            with site.control as client:
                status = client.info("persistence")["aof_last_write_status"]
            one.find(status == "err", f"the append-only file is {status}")
            ballast.unlink()
            one.healed()
            load.join()
            _refused_well(one, "append-only file", answered)
            one.load(seconds=2.0, jobs=max(1, one.jobs // 4))
            one.end()
        finally:
            site.end()
            site.state.stop()
            site.state = usual
            usual.start()


DISK_ROWS: Final = (
    Row(25, "disk full: pictures, RabbitMQ's alarm", "ALDTR", blobs_and_alarm, jobs=40),
    Row(
        225,
        "disk full: pictures, past the deadline",
        "ALDT",
        pictures_past_the_deadline,
        jobs=20,
        settings={"DARKROOM_JOB_TTL_S": "10"},
    ),
    Row(125, "disk full: Redis' append-only file", "ALDTR", append_only_file, jobs=100),
)

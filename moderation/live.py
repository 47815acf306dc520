"""The policy in force: read at the start, and read again when a file of it changes.

At the start, a policy that cannot be used is an error. Later the last good one stays in force, and
`darkroom_moderation_policy_bad` says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from moderation.policy import InvalidPolicy, Policy, read
from telemetry import metrics
from telemetry.logs import get_logger

LOOK_S: Final = 2.0
"""Seconds between two looks at the files."""

C = TypeVar("C")
Stamp = tuple[tuple[str, int, int, int], ...]
"""Path, time of change, size and inode of each file. A mounted ConfigMap changes its inodes."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class InForce(Generic[C]):
    """A policy, and what this process has made of it: a matcher of words, a judge of pictures."""

    policy: Policy
    compiled: C


class LivePolicy(Generic[C]):
    """The policy in a file, as it is now. Made by `opened`. Safe to read from any thread."""

    def __init__(self, path: Path, compile_: Callable[[Policy], C]) -> None:
        self._path = path
        self._compile = compile_
        self._watched: tuple[Path, ...] = ()
        self._stamp: Stamp = ()
        self._in_force: InForce[C] | None = None

    @classmethod
    def opened(cls, path: Path, compile_: Callable[[Policy], C]) -> LivePolicy[C]:
        """The policy in the file at `path`.

        `compile_` makes of it what this process needs, and raises `InvalidPolicy` if it cannot.
        Raises `InvalidPolicy`.
        """
        live = cls(path, compile_)
        live._read()
        metrics.POLICY_BAD.set(0)
        return live

    @property
    def now(self) -> InForce[C]:
        """The policy in force. Read it once for each thing that is judged."""
        if self._in_force is None:
            raise RuntimeError("the policy was not opened")
        return self._in_force

    def look(self) -> bool:
        """Read the files again if one has changed since the last look. Returns whether another policy is in force.

        Blocks while it reads and compiles. One thread may call it at a time.
        """
        if stamp([self._path, *self._watched]) == self._stamp:
            return False
        try:
            self._read()
        except (InvalidPolicy, OSError) as error:
            metrics.POLICY_BAD.set(1)
            log.error("policy_bad", reason=str(error), in_force=self.now.policy.title)
            return False
        metrics.POLICY_BAD.set(0)
        return True

    async def run(self, look_s: float = LOOK_S) -> None:
        """Look again and again, on another thread, until cancelled."""
        while True:
            await asyncio.sleep(look_s)
            await asyncio.to_thread(self.look)

    def _read(self) -> None:
        # The stamps are taken before the files are read: the next look sees what changes meanwhile.
        own = stamp([self._path])
        try:
            policy = read(self._path)
            self._watched = tuple(file for _, file in policy.files())
            named_stamp = stamp(self._watched)
            compiled = self._compile(policy)
        except InvalidPolicy as error:
            self._watched = error.files or self._watched
            self._stamp = own + stamp(self._watched)
            raise
        self._stamp = own + named_stamp
        old, self._in_force = self._in_force, InForce(policy, compiled)
        if old is not None:
            metrics.POLICY_INFO.labels(old.policy.title).set(0)
            if old.policy.title == policy.title and old.policy != policy:
                log.warning("policy_changed_without_a_new_version", policy=policy.title)
        metrics.POLICY_INFO.labels(policy.title).set(1)
        log.info("policy_in_force", policy=policy.title)


def stamp(files: Iterable[Path]) -> Stamp:
    """What changes when one of the files does. A file that is away has a stamp too."""
    stamps = []
    for each in files:
        try:
            status = each.stat()
            stamps.append((str(each), status.st_mtime_ns, status.st_size, status.st_ino))
        except OSError:
            stamps.append((str(each), 0, -1, 0))
    return tuple(stamps)

"""The memory limit of this process: that of the machine, or of its container or systemd unit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")


def machine_memory(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int | None:
    """Return the limit in bytes; None if the system does not report it.

    Of nested control groups the tightest counts (man 7 cgroups, versions 1 and 2). `membership`
    is the file that names the groups of this process.
    """
    try:
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
    return min([memory_bytes, *_limits(cgroups, membership)])


def _limits(cgroups: Path, membership: Path) -> Iterator[int]:
    for limit_file in _limit_files(cgroups, membership):
        try:
            yield int(limit_file.read_text())
        except (OSError, ValueError):
            continue  # the group does not exist here, or has no limit ("max")


def _limit_files(cgroups: Path, membership: Path) -> Iterator[Path]:
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    # Inside a container, the process's group is mounted as the root, whatever the membership file says.
    yield cgroups / "memory.max"
    yield cgroups / "memory" / "memory.limit_in_bytes"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root, name = cgroups, "memory.max"
        if controllers:
            root, name = cgroups / "memory", "memory.limit_in_bytes"
        if controllers and "memory" not in controllers.split(","):
            continue
        group = root / path.strip("/")
        while group.is_relative_to(root) and group != root:
            yield group / name
            group = group.parent

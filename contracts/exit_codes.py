"""Exit codes of the `darkroom` command and of the platform's processes, for scripts, systemd and Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ENDED: Final = 0
"""The process ended as requested."""
FAILED: Final = 1
"""The process failed for a reason that may pass: start it again."""
UNUSABLE: Final = 2
"""The process cannot run with this setup: a bad setting, a port in use, a model that cannot be loaded.

The last line of standard error, `darkroom NAME: reason`, says why. Starting it again changes nothing.
"""
INTERRUPTED: Final = 130
"""Ctrl-C ended a command: 128 and the number of SIGINT, as shells report it."""

COMMAND: Final[Mapping[int, str]] = {
    ENDED: "The command has done what it was asked to do.",
    FAILED: "The server does not answer, or refuses; a job failed, or has not ended in time; a picture could not be added; a check found a fault; an archive cannot be used.",
    UNUSABLE: "An argument or a setting is wrong, and nothing was done; or a command that reads Redis and RabbitMQ itself cannot reach them.",
    INTERRUPTED: "Ctrl-C ended the command.",
}
"""What each code of the `darkroom` command means."""

"""Exit codes of the platform's processes, for `darkroom up`, `darkroom worker`, systemd and Kubernetes."""

from __future__ import annotations

from typing import Final

ENDED: Final = 0
"""The process ended as requested."""
FAILED: Final = 1
"""The process failed for a reason that may pass: start it again."""
UNUSABLE: Final = 2
"""The process cannot run with this setup: a bad setting, a port in use, a model that cannot be loaded.

The last line of standard error, `darkroom NAME: reason`, says why. Starting it again changes nothing.
"""

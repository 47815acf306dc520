"""How a process of the platform ends, for whoever started it: `darkroom up`, `darkroom worker`, systemd, Kubernetes."""

from __future__ import annotations

from typing import Final

ENDED: Final = 0
"""As it was asked to."""
FAILED: Final = 1
"""By a fault that may pass: start it again."""
UNUSABLE: Final = 2
"""It cannot run as it is set up: a bad setting, a port in use, a model that cannot be loaded. The last line of its standard error,
`darkroom NAME: reason`, says why. Starting it again changes nothing."""

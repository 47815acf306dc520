"""The processes that `darkroom up` watches: started, ended, and what to do when one has ended by itself."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.services import process
from cli.services.process import ServiceError
from contracts import exit_codes

MAX_RESTARTS: Final = 3
HEALTHY_S: Final = 60.0
"""A child that has run this long starts with a clean record after its next fault."""
TAIL: Final = 2000

Tell = Callable[[str], None]


class Unusable(ServiceError):
    """A process cannot run as it is set up. To start it again changes nothing."""


@dataclass(slots=True)
class Child:
    """One supervised process; `restarts` since it last ran well."""

    name: str
    module: str
    folder: Path
    environ: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restarts: int = 0

    def start(self) -> None:
        # In the folder that the command was given in, so that paths in settings mean what they say. Modules are not looked for
        # there: a folder called `api` is none of ours.
        environ = {**self.environ, "PYTHONSAFEPATH": "1"}
        command = [sys.executable, "-m", self.module]
        self.process = process.launch(command, self.folder, environ, cwd=Path.cwd())
        self.started_at = time.monotonic()

    def stop(self, timeout_s: float) -> None:
        if self.process is not None:
            process.end(self.process, timeout_s)
            self.process = None

    def check(self, tell: Tell) -> None:
        """Starts it again if it has ended by a fault that may pass, `MAX_RESTARTS` times in a row. Raises `ServiceError` beyond that,
        and `Unusable` at once where it cannot run."""
        if self.process is None or (code := self.process.poll()) is None:
            return
        if code == exit_codes.UNUSABLE:
            raise Unusable(f"The {self.name} cannot run: {self.reason()}")
        if time.monotonic() - self.started_at > HEALTHY_S:
            self.restarts = 0
        if self.restarts >= MAX_RESTARTS:
            raise ServiceError(f"The {self.name} ends again and again:\n{self.tail()}")
        self.restarts += 1
        tell(
            f"The {self.name} ended with {code}; start {self.restarts} of {MAX_RESTARTS} more. Its log: {self.log}"
        )
        self.start()

    def reason(self) -> str:
        """What the process said last of why it cannot run, in one line; else the end of its log."""
        prefix = f"darkroom {self.module}: "
        lines = [line for line in self.tail().splitlines() if line.startswith(prefix)]
        return lines[-1].removeprefix(prefix) if lines else self.tail()

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-TAIL:]

    @property
    def log(self) -> Path:
        return self.folder / "output.log"

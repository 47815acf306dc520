"""The processes that `darkroom up` supervises: start, stop, and restart after a fault."""

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
"""After this many seconds of running, the count of restarts begins again at zero."""
TAIL: Final = 2000
"""Characters of the log that an error shows."""

Report = Callable[[str], None]


class Unusable(ServiceError):
    """A process cannot run with its settings. A restart would not help."""


@dataclass(slots=True)
class Child:
    """One supervised process. `restarts` counts those since it last ran for `HEALTHY_S`."""

    name: str
    module: str
    folder: Path
    environ: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restarts: int = 0

    def start(self) -> None:
        """Starts the process. Its output goes to `log`."""
        # The process runs in the current folder, because paths in settings are relative to it.
        # Modules are not imported from there: a folder called `api` may be someone else's.
        environ = {**self.environ, "PYTHONSAFEPATH": "1"}
        command = [sys.executable, "-m", self.module]
        self.process = process.launch(command, self.folder, environ, cwd=Path.cwd())
        self.started_at = time.monotonic()

    def stop(self, timeout_s: float) -> None:
        """Asks the process to end, and kills it after `timeout_s` seconds."""
        if self.process is not None:
            process.end(self.process, timeout_s)
            self.process = None

    def check(self, report: Report) -> None:
        """Restarts the process if it has ended, and reports that with `report`.

        Raises `ServiceError` after `MAX_RESTARTS` restarts in a row, and `Unusable` at once if the
        process cannot run with its settings.
        """
        if self.process is None or (code := self.process.poll()) is None:
            return
        if code == exit_codes.UNUSABLE:
            raise Unusable(f"The {self.name} cannot run: {self.reason()}")
        if time.monotonic() - self.started_at > HEALTHY_S:
            self.restarts = 0
        if self.restarts >= MAX_RESTARTS:
            raise ServiceError(f"The {self.name} keeps ending:\n{self.tail()}")
        self.restarts += 1
        report(
            f"The {self.name} ended with {code}; restart {self.restarts} of {MAX_RESTARTS}. Its log: {self.log}"
        )
        self.start()

    def reason(self) -> str:
        """Returns the last line in which the process says why it cannot run, else the end of its log."""
        prefix = f"darkroom {self.module}: "
        lines = [line for line in self.tail().splitlines() if line.startswith(prefix)]
        return lines[-1].removeprefix(prefix) if lines else self.tail()

    def tail(self) -> str:
        """Returns the end of the log."""
        return self.log.read_text(errors="replace")[-TAIL:]

    @property
    def log(self) -> Path:
        """The file with the output of the process."""
        return self.folder / "output.log"

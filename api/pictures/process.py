"""The API's side of one process that decodes. All calls are asynchronous; none blocks the event loop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

START_TIMEOUT_S: Final = 30.0
"""How long a process may take to be ready, in seconds."""
PIPE_BYTES: Final = 1 << 20
"""The buffer for the output of a process."""
DYING_S: Final = 1.0
"""How long a process may take to end after it has closed its pipes, in seconds."""
_ROOT: Final = Path(__file__).parents[2]
_PASSED: Final = ("PATH", "PYTHON", "COVERAGE", "LD_LIBRARY_PATH", "LANG", "LC_", "TMPDIR")
# Freed memory goes back to the system at once. Fixed values keep glibc from raising these thresholds.
_MALLOC: Final = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}


class DecoderDied(Exception):
    """The process has ended, or was never ready."""


class DecoderProcess:
    """One process, which decodes one image at a time. Made by `start`."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls) -> DecoderProcess:
        """A process that is ready for its first image. Raises `DecoderDied`."""
        # It reads untrusted files, so its environment has none of our settings, keys and passwords.
        environment = {name: value for name, value in os.environ.items() if name.startswith(_PASSED)}
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "api.pictures",
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                cwd=_ROOT,
                env={**environment, **_MALLOC},
                limit=PIPE_BYTES,
            )
        except OSError as error:
            raise DecoderDied(f"it could not be started: {error.strerror}") from None
        decoder = cls(process)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await decoder._answer()
        except TimeoutError:
            await decoder.end()
            raise DecoderDied(f"it was not ready within {START_TIMEOUT_S:.0f} s") from None
        except BaseException:
            await decoder.end()
            raise
        return decoder

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is not known to have ended."""
        return self._process.returncode is None

    async def ask(self, head: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """Send a frame, and return the head and data of the answer.

        Raises `DecoderDied`. A caller that is cancelled here must `end` the process.
        """
        sink = self._process.stdin
        text = json.dumps({**head, "bytes": len(data)}).encode()
        try:
            if sink is None:
                raise DecoderDied("it has no input")
            sink.writelines([len(text).to_bytes(4, "big"), text, data])
            await sink.drain()
        except (ConnectionError, RuntimeError) as error:
            raise DecoderDied(f"it does not read: {type(error).__name__}") from None
        return await self._answer()

    async def was_killed(self) -> bool:
        """Whether something else has killed the process; usually the system does, for lack of
        memory.

        To be called after `DecoderDied`.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(DYING_S):
                return await self._process.wait() == -signal.SIGKILL
        return False

    async def end(self) -> None:
        """Kill the process, and return once it has ended."""
        with suppress(ProcessLookupError):
            self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()

    async def _answer(self) -> tuple[dict[str, Any], bytes]:
        source = self._process.stdout
        try:
            if source is None:
                raise DecoderDied("it has no output")
            length = int.from_bytes(await source.readexactly(4), "big")
            head: dict[str, Any] = json.loads(await source.readexactly(length))
            return head, await source.readexactly(head["bytes"])
        except (asyncio.IncompleteReadError, ConnectionError):
            raise DecoderDied("it ended") from None

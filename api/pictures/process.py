"""The API's end of one process that decodes: started, asked, ended. All asynchronous; nothing blocks the event loop."""

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
PIPE_BYTES: Final = 1 << 20
DYING_S: Final = 1.0
"""A process closes its pipes a moment before it is gone."""
_ROOT: Final = Path(__file__).parents[2]
_PASSED: Final = ("PATH", "PYTHON", "COVERAGE", "LD_LIBRARY_PATH", "LANG", "LC_", "TMPDIR")
# What is freed goes back to the system at once, whatever was freed before.
_MALLOC: Final = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}


class DecoderDied(Exception):
    """The process has ended, or never began to work."""


class DecoderProcess:
    """One process that decodes one picture at a time. Made by `start`."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls) -> DecoderProcess:
        """A process that is ready for its first picture. Raises `DecoderDied`."""
        # It reads what strangers send: no setting, key or password of ours is in its environment.
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
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def ask(self, head: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """The answer to a frame. Raises `DecoderDied`. Whoever is interrupted here must `end` the process."""
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
        """Whether somebody else has killed it: the machine, as a rule, for want of memory. Of one that does not read or answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DYING_S):
                return await self._process.wait() == -signal.SIGKILL
        return False

    async def end(self) -> None:
        """Kill it, and return once it is gone."""
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

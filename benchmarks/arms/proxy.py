"""Proxies between a platform's processes and their services, which see every exchange and can slow some of them.

An exchange is what a client sends before it is answered, a pipeline too: one round trip. Each process has a proxy of its own,
so whose exchange it is needs no guessing.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.arms.wire import Commands, Frame, Frames

CHUNK_BYTES: Final = 65_536
START_S: Final = 10.0
_CALLS: Final = ("EVALSHA", "EVALSHA_RO", "FCALL", "FCALL_RO")


@dataclass(slots=True)
class Exchange:
    """One round trip of `owner` to Redis; times in `time.perf_counter` seconds, `answered_at` 0 until the first byte is back.
    `port` is by which Redis knows the connection."""

    owner: str
    port: int
    commands: list[list[bytes]]
    asked_at: float
    answered_at: float = 0.0

    @property
    def kind(self) -> str:
        """What tells it from others of the same process: its commands' names, each once, and which script."""
        return f"{self.owner} {'+'.join(dict.fromkeys(map(name_of, self.commands)))}"


def name_of(command: list[bytes]) -> str:
    """The command, and of scripts and functions which one."""
    name, *arguments = (each.decode(errors="replace") for each in command)
    return f"{name.upper()} {arguments[0][:8]}" if name.upper() in _CALLS else name.upper()


@dataclass(frozen=True, slots=True)
class Passed:
    """A frame of AMQP that `owner` sent (`out`) or was sent."""

    owner: str
    out: bool
    frame: Frame
    at: float


@dataclass
class Record:
    """All that has passed so far. `scripts` are the texts that Redis was told, by SHA-1. Replies to an exchange of the kind
    `slowed` are held back for `slowed_s`."""

    exchanges: list[Exchange] = field(default_factory=list)
    frames: list[Passed] = field(default_factory=list)
    scripts: dict[str, str] = field(default_factory=dict)
    slowed: str = ""
    slowed_s: float = 0.0

    def learn(self, command: list[bytes]) -> None:
        """Note the text of a script that is sent."""
        name = command[0].upper()
        text = (
            command[1] if name == b"EVAL" else command[2] if name == b"SCRIPT" and len(command) > 2 else b""
        )
        if text:
            self.scripts[hashlib.sha1(text, usedforsecurity=False).hexdigest()] = text.decode(
                errors="replace"
            )


class Proxies:
    """Forwards loopback ports on a thread of its own, and keeps a `Record`. `stop` ends them all."""

    def __init__(self) -> None:
        self.record = Record()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_S)
        self._loop.close()

    def redis(self, target: int, owner: str) -> int:
        """The port at which `owner` finds the Redis at `target`."""
        port: int = self._do(self._open(target, lambda near, far: self._redis(near, far, owner)))
        return port

    def amqp(self, target: int, owner: str) -> int:
        """The port at which `owner` finds the broker at `target`."""
        port: int = self._do(self._open(target, lambda near, far: self._amqp(near, far, owner)))
        return port

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_S)

    async def _open(self, target: int, serve: Callable[[_End, _End], tuple[_Pump, _Pump]]) -> int:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                far = await asyncio.open_connection("127.0.0.1", target)
                with suppress(ConnectionError):
                    await _both(_End(reader, writer), _End(*far), serve)
            except asyncio.CancelledError:
                writer.transport.abort()
            finally:
                self._tasks.discard(task)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self._servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _redis(self, near: _End, far: _End, owner: str) -> tuple[_Pump, _Pump]:
        commands = Commands()
        port = far.writer.get_extra_info("sockname")[1]
        current: list[Exchange] = []

        async def asked(data: bytes) -> None:
            for command in commands.feed(data):
                self.record.learn(command)
                if current and not current[0].answered_at:
                    current[0].commands.append(command)
                    continue
                current[:] = [Exchange(owner, port, [command], time.perf_counter())]
                self.record.exchanges.append(current[0])

        async def answered(_: bytes) -> None:
            if current and not current[0].answered_at:
                if self.record.slowed == current[0].kind:
                    await asyncio.sleep(self.record.slowed_s)
                current[0].answered_at = time.perf_counter()

        return asked, answered

    def _amqp(self, near: _End, far: _End, owner: str) -> tuple[_Pump, _Pump]:
        def watcher(out: bool) -> _Pump:
            frames = Frames(client=out)

            async def passed(data: bytes) -> None:
                now = time.perf_counter()
                self.record.frames += [Passed(owner, out, frame, now) for frame in frames.feed(data)]

            return passed

        return watcher(True), watcher(False)


@contextmanager
def proxying() -> Iterator[Proxies]:
    proxies = Proxies()
    proxies.start()
    try:
        yield proxies
    finally:
        proxies.stop()


@dataclass(frozen=True, slots=True)
class _End:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


_Pump = Callable[[bytes], Coroutine[Any, Any, None]]


async def _both(near: _End, far: _End, serve: Callable[[_End, _End], tuple[_Pump, _Pump]]) -> None:
    """Forwards both directions until either ends; each chunk is shown before it is handed on."""
    out, back = serve(near, far)

    async def pump(source: _End, sink: _End, show: _Pump) -> None:
        while data := await source.reader.read(CHUNK_BYTES):
            await show(data)
            sink.writer.write(data)
            await sink.writer.drain()

    pumps = [asyncio.ensure_future(pump(near, far, out)), asyncio.ensure_future(pump(far, near, back))]
    try:
        done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()
    finally:
        for each in pumps:
            each.cancel()
        for end in (near, far):
            end.writer.close()

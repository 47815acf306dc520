"""A TCP proxy with the faults of a network: black hole, delay, cut, half-open."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

CHUNK_BYTES: Final = 65_536
START_S: Final = 5.0


class _Pair:
    """One proxied connection: `near` is the client's side, `far` the server's."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near, self.far = near, far
        self.severed = False


class Proxy:
    """Forwards a free loopback port to the loopback `target`, on a thread of its own. Faults may be set from any thread."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._flowing = asyncio.Event()
        self._delay_s = 0.0
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server
        self.port = 0

    def start(self) -> None:
        self._thread.start()
        self._do(self._open())

    def stop(self) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_S)
        self._loop.close()

    def hole(self) -> None:
        """No byte passes any more; connections stay open, and new ones are taken and never answered."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def delay(self, seconds: float) -> None:
        """Every chunk waits this long before it is handed on, in either direction."""
        self._delay_s = seconds

    def cut(self) -> None:
        """All connections end at once, with a reset on both sides. New ones work."""
        self._do(self._cut(near=True))

    def half_open(self) -> None:
        """The server sees all connections end; their clients are told nothing. New ones work."""
        self._do(self._cut(near=False))

    def heal(self) -> None:
        """Everything passes again; what a black hole has held up arrives late, as TCP would send it again."""
        self._delay_s = 0.0
        self._loop.call_soon_threadsafe(self._flowing.set)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(START_S)

    async def _open(self) -> None:
        self._flowing.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        await self._cut(near=True)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # transports that were aborted are closed by the loop, a turn later

    async def _cut(self, *, near: bool) -> None:
        for pair in list(self._pairs):
            pair.severed = True
            _reset(pair.far)
            if near:
                _reset(pair.near)

    async def _accept(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._flowing.wait()
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target)
        except (asyncio.CancelledError, OSError):
            near.transport.abort()
            return
        pair = _Pair(near, far)
        self._pairs.add(pair)
        try:
            await asyncio.gather(self._pump(pair, reader, far), self._pump(pair, far_reader, near))
        except asyncio.CancelledError:
            return
        finally:
            self._pairs.discard(pair)
            far.transport.abort()
            near.transport.abort()

    async def _pump(
        self,
        pair: _Pair,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
    ) -> None:
        with suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                await self._flowing.wait()
                if pair.severed:
                    continue  # half-open: its client may say what it likes
                sink.write(data)
                await sink.drain()
        if pair.severed and sink is pair.near:
            # Half-open: its client goes on as if nothing had happened, until it hangs up itself.
            return
        with suppress(OSError):
            sink.transport.abort() if pair.severed else sink.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with a reset rather than a farewell."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()

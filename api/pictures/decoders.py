"""Pictures to start from, made ready in processes of their own: bounded in number, memory and time, fair between tenants.

A process is started when the first picture needs it. One that takes too long, or whose client leaves, is killed; the next
picture starts another.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, Final

from api.init_image import InitImage, SourcePicture, fault
from api.pictures.header import MIB
from api.pictures.process import DecoderDied, DecoderProcess
from api.pictures.turns import Ticket, Turns
from backends.blobs import blob_name
from contracts.errors import TooManyInitImages
from contracts.settings import ApiSettings
from telemetry.logs import get_logger

PROCESSES: Final = 2
"""Beside the event loop, which needs a core of its own: few."""
ROOM_BYTES: Final = 48 * MIB
"""Of pictures that wait for their turn, as they were sent and as files; more where a single one may be larger."""
HELD: Final = 2.4
"""Bytes held for one of a file that waits: itself, and its base64."""
ATTEMPTS: Final = 2
"""A process may have been ended by somebody else: the picture is to blame when it happens twice."""

log = get_logger(__name__)

_Begun = asyncio.Future[None]


class Decoders:
    """Makes pictures ready. Nothing runs before the first one; `close` ends what runs."""

    def __init__(self, settings: ApiSettings) -> None:
        self._memory_bytes = settings.init_image_memory_bytes
        self._timeout_s = settings.init_image_timeout_s
        self._wait_s = settings.init_image_wait_s
        room_bytes = max(ROOM_BYTES, int(HELD * settings.max_init_image_bytes))
        self._turns = Turns[_Begun](PROCESSES, self._memory_bytes, room_bytes)
        self._idle: list[DecoderProcess] = []
        self._closed = False

    @property
    def idle(self) -> tuple[int, ...]:
        """The process ids of those that wait for work."""
        return tuple(each.pid for each in self._idle)

    async def prepare(self, tenant: str, source: SourcePicture, width: int, height: int) -> InitImage:
        """The picture as a PNG of `width` x `height`. A caller that is cancelled gives up its place, or ends the decoding.

        Raises `InvalidRequest` for a file that is damaged, takes too long or too much memory; `TooManyInitImages` when its turn
        does not come in time.
        """
        target = width, height
        need = source.header.memory_bytes(target)
        if need > self._memory_bytes:
            raise fault(
                f"would take {_mib(need)} MiB of memory to decode, and {_mib(self._memory_bytes)} are allowed: send it smaller"
            )
        head = {"header": asdict(source.header), "target": target, "memory_bytes": need}
        async with self._turn(tenant, need, len(source.data)):
            answer, png = await self._asked(head, source.data)
        match answer.get("fault"):
            case None:
                return InitImage(blob_name(png, "png", is_input=True), png, tuple(answer["warnings"]))
            case "memory":
                raise fault("takes more memory to decode than its header says")
        raise fault("cannot be decoded: the file is damaged")

    async def close(self) -> None:
        """End the processes: those that are at work once they are done."""
        self._closed = True
        idle, self._idle = self._idle, []
        await asyncio.gather(*(each.end() for each in idle))

    @asynccontextmanager
    async def _turn(self, tenant: str, memory_bytes: int, file_bytes: int) -> AsyncIterator[None]:
        """Holds a place among those that decode."""
        begun: _Begun = asyncio.get_running_loop().create_future()
        ticket = Ticket(tenant, memory_bytes, int(HELD * file_bytes), begun)
        for dropped in self._turns.add(ticket):
            dropped.item.set_exception(_busy("No more pictures to start from can wait", self._timeout_s))
        try:
            self._advance()
            try:
                async with asyncio.timeout(self._wait_s):
                    await begun
            except TimeoutError:
                says = f"The picture to start from has waited {self._wait_s:g} s to be decoded"
                raise _busy(says, self._timeout_s) from None
            yield
        finally:
            self._turns.leave(ticket)
            self._advance()

    def _advance(self) -> None:
        while (ticket := self._turns.begin()) is not None:
            # One whose caller is just giving up leaves by itself.
            if not ticket.item.done():
                ticket.item.set_result(None)

    async def _asked(self, head: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """The answer of a process, which is killed at the time limit, and when nobody waits for it any more."""
        killed = False
        for _ in range(ATTEMPTS):
            try:
                process = await self._process()
            except DecoderDied as error:
                log.error("decoder_not_started", reason=str(error))
                raise _busy("No picture to start from can be decoded now", self._timeout_s) from None
            whole = False
            try:
                async with asyncio.timeout(self._timeout_s):
                    answer = await process.ask(head, data)
                whole = True
                return answer
            except TimeoutError:
                log.warning("decoder_killed", seconds=self._timeout_s)
                raise fault(
                    f"takes longer than {self._timeout_s:g} s to decode, the most that is allowed"
                ) from None
            except DecoderDied as error:
                killed = await process.was_killed()
                log.warning("decoder_died", reason=str(error), killed=killed)
            finally:
                if whole and not self._closed:
                    self._idle.append(process)
                else:
                    await process.end()
        if killed:
            raise _busy("The process that decoded the picture to start from was killed", self._timeout_s)
        return {"fault": "damaged"}, b""

    async def _process(self) -> DecoderProcess:
        while self._idle:
            process = self._idle.pop()
            if process.alive:
                return process
            await process.end()
        return await DecoderProcess.start()


def _busy(says: str, again_s: float) -> TooManyInitImages:
    return TooManyInitImages(f"{says}.", retry_after_s=again_s, param="init_image")


def _mib(count: int) -> int:
    return -(-count // MIB)

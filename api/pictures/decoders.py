"""Decodes the images that clients send in separate processes, with bounds on their number, memory and time, and
fairly between tenants.

A process starts when an image needs it. If an image takes too long, or its client leaves, the
process is killed. The next image starts another.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from api.init_image import InitImage, SourcePicture, fault
from api.pictures.cover import Size
from api.pictures.header import MIB
from api.pictures.output import EXTENSIONS, Output
from api.pictures.process import DecoderDied, DecoderProcess
from api.pictures.turns import Ticket, Turns
from backends.blobs import blob_name
from contracts.errors import TooManyInitImages
from contracts.settings import ApiSettings
from telemetry.logs import get_logger

PROCESSES: Final = 2
"""The most processes. Few, because the event loop needs its own core."""
ROOM_BYTES: Final = 48 * MIB
"""The memory for images that wait, as they were sent and as files. It is more if a single image may
be larger."""
HELD: Final = 2.4
"""Bytes of memory for each byte of a file that waits: the file and its base64."""
ATTEMPTS: Final = 2
"""How often an image is tried. One process may have been killed by something else; if it happens
twice, the image is to blame."""

log = get_logger(__name__)

_Started = asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """An image as it is stored: the bytes of the file, the ending of its name, and its size in pixels."""

    data: bytes
    extension: str
    width: int
    height: int


class Decoders:
    """Decodes images. No process runs before the first one. `close` ends the processes."""

    def __init__(self, settings: ApiSettings) -> None:
        self._memory_bytes = settings.init_image_memory_bytes
        self._timeout_s = settings.init_image_timeout_s
        self._wait_s = settings.init_image_wait_s
        largest = max(settings.max_init_image_bytes, settings.max_import_bytes)
        room_bytes = max(ROOM_BYTES, int(HELD * largest))
        self._turns = Turns[_Started](PROCESSES, self._memory_bytes, room_bytes)
        self._idle: list[DecoderProcess] = []
        self._closed = False

    @property
    def idle(self) -> tuple[int, ...]:
        """The process ids of the idle processes."""
        return tuple(process.pid for process in self._idle)

    async def prepare(
        self, tenant: str, source: SourcePicture, width: int, height: int, *, texts: bool = False
    ) -> InitImage:
        """The image of `tenant` as a PNG of `width` x `height` pixels, with what its file says if `texts`. A caller that is cancelled
        gives up its place, or ends the decoding.

        Raises `InvalidRequest` for a file that is damaged, or takes too long or too much memory.
        Raises `TooManyInitImages` if its turn does not come in time.
        """
        answer, png = await self._made(tenant, source, (width, height), "cut", texts=texts)
        return InitImage(
            blob_name(png, "png", is_input=True), png, tuple(answer["warnings"]), answer["texts"]
        )

    async def query(self, tenant: str, source: SourcePicture, target: Size) -> bytes:
        """The whole image of `tenant` as a PNG. `target` is its size before it is turned upright. Raises
        as `prepare` does."""
        _, png = await self._made(tenant, source, target, "query")
        return png

    async def stored(self, tenant: str, source: SourcePicture, target: Size) -> StoredPicture:
        """As `query`, in the format of the file that was sent."""
        answer, file = await self._made(tenant, source, target, "stored")
        width, height = answer["size"]
        return StoredPicture(file, EXTENSIONS[source.header.format], width, height)

    async def close(self) -> None:
        """End the idle processes now, and the others once they are done."""
        self._closed = True
        idle, self._idle = self._idle, []
        await asyncio.gather(*(process.end() for process in idle))

    async def _made(
        self, tenant: str, source: SourcePicture, target: Size, output: Output, *, texts: bool = False
    ) -> tuple[dict[str, Any], bytes]:
        need = source.header.memory_bytes(target)
        if need > self._memory_bytes:
            raise fault(
                f"would take {_mib(need)} MiB of memory to decode, and {_mib(self._memory_bytes)} are allowed: send it smaller",
                source.field,
                "memory",
            )
        head = {
            "header": asdict(source.header),
            "target": target,
            "memory_bytes": need,
            "output": output,
            "texts": texts,
        }
        try:
            async with self._turn(tenant, need, source):
                answer, file = await self._decoded(head, source)
        except TooManyInitImages as error:
            error.param = source.field
            raise
        match answer.get("fault"):
            case None:
                return answer, file
            case "memory":
                raise fault("takes more memory to decode than its header says", source.field, "memory")
        raise fault("cannot be decoded: the file is damaged", source.field, "damaged")

    @asynccontextmanager
    async def _turn(self, tenant: str, memory_bytes: int, source: SourcePicture) -> AsyncIterator[None]:
        """Wait for a place, and hold it for the block."""
        started: _Started = asyncio.get_running_loop().create_future()
        ticket = Ticket(tenant, memory_bytes, int(HELD * len(source.data)), started)
        for dropped in self._turns.add(ticket):
            dropped.item.set_exception(_busy("No more images can wait", self._timeout_s))
        try:
            self._advance()
            try:
                async with asyncio.timeout(self._wait_s):
                    await started
            except TimeoutError:
                reason = f"The image has waited {self._wait_s:g} s to be decoded"
                raise _busy(reason, self._timeout_s) from None
            yield
        finally:
            self._turns.leave(ticket)
            self._advance()

    def _advance(self) -> None:
        while (ticket := self._turns.begin()) is not None:
            # A done ticket's caller is giving up, and leaves by itself.
            if not ticket.item.done():
                ticket.item.set_result(None)

    async def _decoded(self, head: dict[str, Any], source: SourcePicture) -> tuple[dict[str, Any], bytes]:
        """The answer of a process. The process is killed at the time limit, and when this is cancelled."""
        killed = False
        for _ in range(ATTEMPTS):
            try:
                process = await self._process()
            except DecoderDied as error:
                log.error("decoder_not_started", reason=str(error))
                raise _busy("No image can be decoded now", self._timeout_s) from None
            whole = False
            try:
                async with asyncio.timeout(self._timeout_s):
                    answer = await process.ask(head, source.data)
                whole = True
                return answer
            except TimeoutError:
                log.warning("decoder_killed", seconds=self._timeout_s)
                raise fault(
                    f"takes longer than {self._timeout_s:g} s to decode, the most that is allowed",
                    source.field,
                    "time",
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
            raise _busy("The process that decoded the image was killed", self._timeout_s)
        return {"fault": "damaged"}, b""

    async def _process(self) -> DecoderProcess:
        while self._idle:
            process = self._idle.pop()
            if process.alive:
                return process
            await process.end()
        return await DecoderProcess.start()


def _busy(reason: str, again_s: float) -> TooManyInitImages:
    return TooManyInitImages(f"{reason}.", retry_after_s=again_s)


def _mib(count: int) -> int:
    return -(-count // MIB)

"""The processes that decode: what bounds them in time and memory, and that nothing goes wrong when one ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from starlette.requests import ClientDisconnect

from api.idempotency import Copies, Slot
from api.init_image import SourcePicture
from api.keyring import Principal
from api.long_poll import Audience, unless_gone
from api.pictures.__main__ import SLACK_BYTES
from api.pictures.decoders import PROCESSES, ROOM_BYTES, Decoders
from api.pictures.header import MIB, Header, header_of
from api.pictures.process import DecoderProcess
from contracts.errors import InvalidRequest, TooManyInitImages
from contracts.models import WorkerInfo
from contracts.settings import ApiSettings
from tests.api.conftest import Opener
from tests.api.files import chunk, decoded, encoded, file_of, noise, png
from tests.store.test_others import spec

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
OWN_MIB = 48
"""What a process takes that decodes nothing, with room for another allocator."""


def source(data: bytes) -> SourcePicture:
    header = header_of(data)
    assert header is not None
    return SourcePicture(data, header)


SMALL = source(file_of(noise(64, 64)))


def decoding() -> list[psutil.Process]:
    """The processes of this one that decode."""
    found = []
    for each in psutil.Process().children():
        try:
            if "api.pictures" in each.cmdline():
                found.append(each)
        except psutil.NoSuchProcess:
            continue
    return found


def peak_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


@pytest.fixture
async def pools(anyio_backend: str) -> AsyncIterator[Any]:
    """Makes decoders with settings of their own, and closes them."""
    opened = []

    def make(**settings: Any) -> Decoders:
        opened.append(Decoders(ApiSettings.model_validate(settings)))
        return opened[-1]

    yield make
    for each in opened:
        await each.close()
    assert decoding() == []


async def until(true: Any) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


async def test_no_process_is_there_before_the_first_picture(opened: Opener) -> None:
    api = await opened()
    await api.submit()
    assert decoding() == []


async def test_one_that_takes_too_long_is_refused_by_name_and_its_process_replaced(pools: Any) -> None:
    hasty = pools(init_image_timeout_s=0.001)
    with pytest.raises(InvalidRequest, match=r"init_image takes longer than 0\.001 s to decode") as error:
        await hasty.prepare("a", source(file_of(noise(2000, 2000))), 64, 64)
    assert (error.value.param, error.value.status) == ("init_image", 422)
    assert (hasty.idle, decoding()) == ((), [])
    # One that hangs for whatever reason: the next picture has another.
    decoders = pools(init_image_timeout_s=3)
    await decoders.prepare("a", SMALL, 64, 64)
    (pid,) = decoders.idle
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(InvalidRequest, match="takes longer than 3 s"):
        await decoders.prepare("a", SMALL, 64, 64)
    assert not psutil.pid_exists(pid)
    assert decoded((await decoders.prepare("a", SMALL, 64, 64)).data).size == (64, 64)
    assert decoders.idle != (pid,)


async def test_the_time_limit_is_an_answer_of_the_api(opened: Opener) -> None:
    api = await opened((), init_image_timeout_s=0.001)
    worker = WorkerInfo(id="w", model="m", started_at=1.0, steps_per_s=10.0)
    await api.stores.models.announce(spec("m").model_copy(update={"init_images": True}), worker)
    body = {"prompt": "a", "init_image": encoded(noise(2000, 2000), "JPEG", progressive=True)}
    response = await api.http.post("/v1/jobs", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (422, "init_image")
    assert "longer than 0.001 s" in error["message"]


@pytest.mark.parametrize(
    ("number", "error", "says"),
    [
        (signal.SIGSEGV, InvalidRequest, "cannot be decoded"),
        # As the kernel does, out of memory: the picture may have no part in it.
        (signal.SIGKILL, TooManyInitImages, "was killed"),
    ],
)
async def test_a_process_that_dies_is_replaced_and_a_picture_that_kills_is_refused(
    pools: Any, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, error: type[Exception], says: str
) -> None:
    decoders = pools()
    await decoders.prepare("a", SMALL, 64, 64)
    (pid,) = decoders.idle
    os.kill(pid, signal.SIGKILL)
    assert decoded((await decoders.prepare("a", SMALL, 64, 64)).data).size == (64, 64)
    # Killed whenever it is asked.
    ask = DecoderProcess.ask

    async def killed(self: DecoderProcess, head: dict[str, Any], data: bytes) -> Any:
        os.kill(self.pid, number)
        return await ask(self, head, data)

    monkeypatch.setattr(DecoderProcess, "ask", killed)
    with pytest.raises(error, match=says):
        await decoders.prepare("a", SMALL, 64, 64)
    monkeypatch.undo()
    await decoders.prepare("a", SMALL, 64, 64)


async def test_who_leaves_is_not_decoded_for(pools: Any) -> None:
    decoders = pools(init_image_timeout_s=60, init_image_wait_s=60)
    await asyncio.gather(*(decoders.prepare("a", SMALL, 64, 64) for _ in range(PROCESSES)))
    pids = decoders.idle
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    gone = [asyncio.get_running_loop().create_future() for _ in range(PROCESSES + 1)]
    work = [asyncio.create_task(unless_gone(each, decoders.prepare("a", SMALL, 64, 64))) for each in gone]
    await until(lambda: decoders.idle == ())
    last = asyncio.create_task(decoders.prepare("b", SMALL, 64, 64))
    gone[-1].set_result(None)  # it waits
    gone[0].set_result(None)  # it is being decoded
    for task in (work[-1], work[0]):
        with pytest.raises(ClientDisconnect):
            await task
    assert not all(psutil.pid_exists(pid) for pid in pids), "its process is gone, at once"
    assert decoded((await last).data).size == (64, 64), "its place is another's"
    for pid in pids:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGCONT)
    for task in work[1:-1]:
        await task


async def test_copies_of_a_request_are_dropped_when_all_have_left(anyio_backend: str) -> None:
    audience, loop = Audience(), asyncio.get_running_loop()
    one, other = loop.create_future(), loop.create_future()
    audience.join(one)
    audience.join(other)
    one.set_result(None)
    await asyncio.sleep(0)
    assert not audience.gone.done()
    other.set_result(None)
    await asyncio.wait_for(audience.gone, 5)


async def test_who_comes_when_all_have_left_begins_anew(anyio_backend: str) -> None:
    copies: Copies[Any] = Copies()
    slot, loop = Slot("t", "key", "body"), asyncio.get_running_loop()
    started: list[asyncio.Future[None]] = []
    may_end = asyncio.Event()

    async def work(gone: asyncio.Future[None]) -> Any:
        await unless_gone(gone, may_end.wait())
        return len(started)

    def start(gone: asyncio.Future[None]) -> asyncio.Task[Any]:
        started.append(gone)
        return asyncio.create_task(work(gone))

    def copy(gone: asyncio.Future[None] | None) -> asyncio.Task[Any]:
        return asyncio.create_task(copies.shared(slot, Principal("t"), gone, start))

    one, other = loop.create_future(), loop.create_future()
    left = [copy(one), copy(other)]
    await until(lambda: len(started) == 1)
    one.set_result(None)
    other.set_result(None)
    await until(started[0].done)
    late = [copy(None), copy(loop.create_future())]
    for each in left:
        with pytest.raises(ClientDisconnect):
            await each
    may_end.set()
    assert [await each for each in late] == [2, 2], "both share the second"


async def test_tenants_take_turns(pools: Any) -> None:
    """One picture at a time: what came last, of another tenant, does not wait for all that came before."""
    large = source(file_of(noise(1500, 1500, "RGBA")))
    decoders = pools(init_image_memory_bytes=large.header.memory_bytes((64, 64)), init_image_wait_s=60)
    order: list[str] = []

    async def one(tenant: str) -> None:
        await decoders.prepare(tenant, large, 64, 64)
        order.append(tenant)

    await asyncio.gather(*(one("a") for _ in range(5)), one("b"))
    assert order.index("b") <= 2
    assert len(decoders.idle) == 1, "more never ran at once"


async def test_who_cannot_have_a_turn_in_time_is_told_to_come_again(pools: Any) -> None:
    need = SMALL.header.memory_bytes((64, 64))
    decoders = pools(init_image_memory_bytes=need, init_image_wait_s=0.2, init_image_timeout_s=2)
    await decoders.prepare("a", SMALL, 64, 64)
    (pid,) = decoders.idle
    os.kill(pid, signal.SIGSTOP)
    first = asyncio.create_task(decoders.prepare("a", SMALL, 64, 64))
    await until(lambda: decoders.idle == ())
    with pytest.raises(TooManyInitImages, match=r"waited 0\.2 s") as error:
        await decoders.prepare("b", SMALL, 64, 64)
    assert (error.value.status, error.value.retry_after_s, error.value.param) == (503, 2, "init_image")
    with pytest.raises(InvalidRequest, match="takes longer"):
        await first


async def test_a_picture_that_needs_more_than_there_is_is_refused(pools: Any) -> None:
    decoders = pools(init_image_memory_bytes=40 * MIB)
    with pytest.raises(InvalidRequest, match=r"would take \d+ MiB of memory to decode, and 40 are allowed"):
        await decoders.prepare(
            "a", source(file_of(Image.new("RGBA", (4000, 4000)), compress_level=1)), 64, 64
        )
    assert decoding() == []


async def test_eight_of_the_largest_at_once_keep_within_the_budget(pools: Any) -> None:
    largest = source(file_of(Image.new("RGBA", (4096, 4096), (1, 2, 3, 4))))
    need = largest.header.memory_bytes((64, 64)) / MIB
    assert need < 90
    alone = pools()
    await alone.prepare("a", largest, 64, 64)
    (pid,) = alone.idle
    assert peak_mib(pid) < need + OWN_MIB
    # With room for one, three show that they wait for each other.
    for memory, count, processes in ((200, 8, 2), (100, 3, 1)):
        decoders = pools(init_image_memory_bytes=memory * MIB, init_image_wait_s=100, init_image_timeout_s=60)
        made = await asyncio.gather(*(decoders.prepare(str(n % 3), largest, 64, 64) for n in range(count)))
        assert len({each.name for each in made}) == 1
        assert len(decoders.idle) == processes
        assert sum(map(peak_mib, decoders.idle)) < memory + OWN_MIB * len(decoders.idle)
        for each in decoders.idle:
            assert psutil.Process(each).memory_info().rss < OWN_MIB * MIB, "what it took is given back"


def test_a_pod_of_the_chart_has_memory_for_all_of_it() -> None:
    chart = (ROOT / "helm" / "darkroom" / "values.yaml").read_text()
    limit = re.search(r"^api:.*?limits: \{ memory: (\d+)Mi \}", chart, re.DOTALL | re.MULTILINE)
    assert limit is not None
    # The API alone, what waits, and two processes at their own limit.
    beside = 90 + ROOM_BYTES // MIB + PROCESSES * (25 + SLACK_BYTES // MIB)
    assert int(limit[1]) >= ApiSettings().init_image_memory_bytes // MIB + beside
    # Whatever the other limits let in fits in.
    for size in ((512, 512), (1024, 1024)):
        assert Header("WEBP", 4096, 4096).memory_bytes(size) <= ApiSettings().init_image_memory_bytes


KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "PNG RGBA": ("RGBA", "PNG", {}),
    "PNG RGB": ("RGB", "PNG", {}),
    "PNG grey": ("L", "PNG", {}),
    "PNG palette": ("P", "PNG", {"transparency": b"\x80" * 9}),
    "JPEG": ("RGB", "JPEG", {"quality": 60}),
    "JPEG progressive": ("RGB", "JPEG", {"quality": 60, "progressive": True, "subsampling": 0}),
    "JPEG CMYK progressive": ("CMYK", "JPEG", {"quality": 60, "progressive": True}),
    "WebP": ("RGB", "WEBP", {"quality": 40, "method": 0}),
    "WebP alpha": ("RGBA", "WEBP", {"quality": 40, "method": 0}),
    "WebP lossless": ("RGBA", "WEBP", {"lossless": True, "quality": 0, "method": 0}),
}


@pytest.mark.parametrize("size", [(64, 64), (1024, 512)])
@pytest.mark.parametrize("kind", [*KINDS, "PNG 16 keyed", "PNG 16 grey"])
async def test_a_picture_takes_what_its_header_says_at_most(
    pools: Any, kind: str, size: tuple[int, int]
) -> None:
    if kind in KINDS:
        mode, file, how = KINDS[kind]
        data = file_of(noise(2500, 2300, mode), file, **how)
    else:
        channels, key = (3, b"\0\1\0\2\0\3") if kind.endswith("keyed") else (1, b"\0\1")
        row = bytes(range(250)) * (2500 * 2 * channels // 250)
        data = png(2500, 2300, 16, 2 if channels == 3 else 0, [row] * 2300, chunk(b"tRNS", key))
    decoders = pools(init_image_timeout_s=60)
    await decoders.prepare("a", SMALL, 64, 64)
    (pid,) = decoders.idle
    own = peak_mib(pid)
    picture = source(data)
    await decoders.prepare("a", picture, *size)
    assert decoders.idle == (pid,)
    assert peak_mib(pid) - own < picture.header.memory_bytes(size) / MIB


async def test_a_process_bounds_its_own_memory_and_lives_on(anyio_backend: str) -> None:
    process = await DecoderProcess.start()
    try:
        large = source(file_of(noise(4096, 4096, "RGBA"), compress_level=1))
        for picture, memory, fault in ((large, 0, "memory"), (SMALL, 0, None), (large, 90 * MIB, None)):
            header = picture.header
            head = {
                "header": asdict(header),
                "target": [64, 64],
                "memory_bytes": memory,
                "output": "cut",
            }
            answer, _ = await process.ask(head, picture.data)
            assert answer.get("fault") == fault
    finally:
        await process.end()


async def test_a_process_knows_nothing_of_ours(pools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_ADMIN_KEY", "dk_" + "A" * 43)
    decoders = pools()
    await decoders.prepare("a", SMALL, 64, 64)
    (pid,) = decoders.idle
    names = {each.partition("=")[0] for each in Path(f"/proc/{pid}/environ").read_text().split("\0")}
    assert not any(name.startswith(("DARKROOM", "AWS", "PYTEST")) for name in names)


async def test_a_file_as_long_as_is_allowed_has_room_where_nobody_waits(pools: Any) -> None:
    plain = SMALL.data
    # A chunk that readers pass over stands before the last one, which is twelve bytes long.
    long = source(plain[:-12] + chunk(b"prVt", bytes(ROOM_BYTES // 2)) + plain[-12:])
    decoders = pools(max_init_image_bytes=len(long.data))
    assert decoded((await decoders.prepare("a", long, 64, 64)).data).size == (64, 64)

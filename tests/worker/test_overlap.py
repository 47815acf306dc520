"""While one batch is encoded, the next is drawn: seen in the spans of a real batcher, engine process and encoder."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass

import pytest

from contracts.engine import Batch, BatchKey, ImageTask, Pixels
from contracts.settings import WorkerSettings
from runtime.clock import SystemClock
from worker.batcher import Batcher
from worker.encode import Encoder, Output
from worker.engine.host import EngineHost
from worker.engine.messages import Answer, Done
from worker.images import ScheduleKey

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

KEY = BatchKey("fake", 1024, 1024, guided=False)
BATCHES = 6


@dataclass(frozen=True, slots=True)
class Span:
    begun: float
    ended: float

    def meets(self, other: Span) -> bool:
        return self.begun < other.ended and other.begun < self.ended


class TracedHost(EngineHost):
    """Notes when the device works, batch by batch."""

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self.batches: list[Span] = []
        self.made: list[tuple[int, object]] = []
        self.begun: deque[float] = deque()

    def send(self, batch: Batch) -> None:
        self.begun.append(time.perf_counter())
        super().send(batch)

    def receive(self) -> Answer:
        answer = super().receive()
        begun = max(self.begun.popleft(), self.batches[-1].ended if self.batches else 0.0)
        if isinstance(answer, Done):
            self.made += [(len(self.batches), each) for each in answer.samples]
        self.batches.append(Span(begun, time.perf_counter()))
        return answer


async def test_the_next_batch_is_drawn_while_this_one_is_encoded() -> None:
    settings = WorkerSettings(engine="fake", model="fake", max_batch=2)
    host = TracedHost(settings)
    batcher, encoder = Batcher(host, settings.max_batch, SystemClock()), Encoder()
    encodings: list[tuple[int, Span]] = []

    async def one(number: int) -> None:
        task = ImageTask("slow=0.2", "", number)
        drawn = await batcher.add(KEY, task, ScheduleKey(0.0, time.monotonic() + 60))
        (of_batch,) = [at for at, image in host.made if image is drawn.image]
        assert isinstance(drawn.image, Pixels)
        begun = time.perf_counter()
        # Twenty pages of the same picture, so that what is looked for is not over in a blink.
        for _ in range(20):
            await encoder.encode(drawn.image, Output())
        encodings.append((of_batch, Span(begun, time.perf_counter())))

    await asyncio.to_thread(host.start)
    running = asyncio.create_task(batcher.run())
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(BATCHES * settings.max_batch):
                group.create_task(one(number))
    finally:
        await batcher.stop()
        await running
        encoder.close()
    assert len(host.batches) == BATCHES
    for number in range(BATCHES - 1):
        spans = [span for of_batch, span in encodings if of_batch == number]
        assert spans, "every batch had its pictures encoded"
        assert any(span.meets(host.batches[number + 1]) for span in spans), (
            f"after batch {number} the device idled"
        )

"""Engines in this process, instead of a child of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque

from contracts.engine import Batch
from scheduler.recovery import Failure
from worker.engine.host import EngineHost
from worker.engine.messages import Answer, Done, Failed, Unrun


class HostHere(EngineHost, ABC):
    """`run_here` of a subclass is the engine: it is called when the answer to a batch is asked for. One that is started
    has a `start` of its own."""

    sent: deque[tuple[Batch, bool]]
    well: bool
    up: bool

    def start_here(self) -> None:
        self.sent, self.well, self.up = deque(), True, True

    @abstractmethod
    def run_here(self, batch: Batch) -> Done | Failed: ...

    @property
    def alive(self) -> bool:
        return self.up

    def kill(self) -> None:
        self.up = False

    def wake(self) -> None:
        return None

    def wait(self, timeout_s: float | None = None) -> bool:
        return True

    def send(self, batch: Batch) -> None:
        self.sent.append((batch, bool(self.sent)))

    def receive(self) -> Answer:
        batch, ahead = self.sent.popleft()
        if not self.up or (ahead and not self.well):
            return Unrun("The batch before it failed.")
        answer = self.run_here(batch)
        self.well = isinstance(answer, Done)
        if isinstance(answer, Failed) and answer.failure is Failure.CRASH:
            self.up = False
        return answer

"""The host: starts the engine process, sends it batches, and kills it when it crashes or hangs."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from contracts.engine import Batch
from contracts.models import ModelSpec
from contracts.settings import WorkerSettings
from scheduler.recovery import Failure
from telemetry import metrics
from worker.engine.messages import Answer, Answered, Failed, LoadRefused, Order, Ready, Unrun
from worker.engine.process import EngineProcess, end_of
from worker.naming import model_name


class LoadFailure(StrEnum):
    """Why an engine did not load its model: it reported so, its process ended, or the time was over."""

    UNLOADABLE = "unloadable"
    DIED = "died"
    TIMEOUT = "timeout"


class EngineLoadError(Exception):
    """The engine cannot load its model. The worker must stop. `may_pass`: a later start may succeed."""

    def __init__(self, reason: str, *, may_pass: bool = False) -> None:
        super().__init__(reason)
        self.may_pass = may_pass


class EngineDied(EngineLoadError):
    """The engine's process ended without a message before its model was loaded. Another start may succeed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, may_pass=True)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A batch without an answer. `at` is the time of sending, in seconds of the monotonic clock."""

    number: int
    at: float


class EngineHost:
    """Runs one engine process at a time.

    One thread at a time may call the methods. `kill` and `wake` may be called from any thread.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._engine: EngineProcess | None = None
        """The last engine process, also after its end."""
        self._sent: deque[_Sent] = deque()
        self._numbers = 0
        self._answered_at = 0.0
        self._lost: tuple[int, str] | None = None
        """The number of the batch during which the engine ended, and how it ended."""

    @property
    def pid(self) -> int | None:
        """The id of the engine's process, for measurements and fault tests; None if there is none."""
        engine = self._engine
        return None if engine is None or engine.killed else engine.pid

    @property
    def alive(self) -> bool:
        """Whether there is a process that has not been killed."""
        return self.pid is not None

    def start(self) -> ModelSpec:
        """Start a new process and wait until its model is loaded.

        Raises `EngineLoadError`, or its subclass `EngineDied`.
        """
        for cause in LoadFailure:
            # The counter must exist from the start, or a rate would miss the first failure.
            self._failed_to_load(cause, 0)
        self.kill()
        self._sent.clear()
        self._lost = None
        engine = self._engine = EngineProcess.start(self._settings)
        answer = engine.answer() if engine.ready(self._settings.load_timeout_s) else None
        if isinstance(answer, Ready):
            return answer.spec
        if isinstance(answer, LoadRefused):
            self.kill()
            self._failed_to_load(LoadFailure.UNLOADABLE)
            raise EngineLoadError(answer.reason, may_pass=answer.may_pass)
        status = engine.status()
        self.kill()
        if status is not None:
            self._failed_to_load(LoadFailure.DIED)
            raise EngineDied(f"The engine {end_of(status)} while it loaded its model.")
        self._failed_to_load(LoadFailure.TIMEOUT)
        raise EngineLoadError(
            f"The engine did not load its model within {self._settings.load_timeout_s:g} s.", may_pass=True
        )

    def run(self, batch: Batch) -> Answer:
        """Run one batch: `send` it and `receive` its answer. Raises what they raise."""
        self.send(batch)
        return self.receive()

    def send(self, batch: Batch) -> None:
        """Send a batch. A second one may be sent while the first runs; answers come in the same order.

        Without an engine process, the batch counts as crashed. Raises what pickling raises; then
        nothing was sent.
        """
        if not self._sent:
            self._lost = None
        number, delivered = self._numbers + 1, True
        if self._engine is not None and self.alive:
            delivered = self._engine.send(Order(number, batch, ahead=bool(self._sent)))
        self._numbers = number
        self._sent.append(_Sent(number, time.monotonic()))
        if not delivered:
            self._lose_engine()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until `receive` can return at once.

        True: it can. False: `timeout_s` seconds are over, or `wake` was called.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while self._engine is not None and self.alive:
            left_s = self._left_s(self._engine)
            if left_s <= 0:
                break  # the engine hangs, and `receive` reports it
            ready = self._engine.ready(left_s if until is None else min(left_s, until - time.monotonic()))
            if ready or ready is None:
                return bool(ready)
            if until is not None and time.monotonic() >= until:
                return False
        return True

    def wake(self) -> None:
        """End a `wait` early, from any thread."""
        if self._engine is not None:
            self._engine.wake()

    def receive(self) -> Answer:
        """Wait for the answer to the oldest batch without one, and return it.

        The engine is killed if it has ended, if a batch takes longer than allowed, or if it answers
        another batch. Then the batch that it had begun counts as crashed, and every other batch that
        was sent is `Unrun`. Call `start` again before the next batch.
        """
        answer: Answer | None = None
        try:
            while not self.wait():
                pass
            message = None if self._engine is None else self._engine.answer()
            if isinstance(message, Answered) and message.number == self._sent[0].number:
                answer = message.answer
            else:
                self._lose_engine()
        except BaseException:
            # The rest of a message that was half read would be taken for the answer to the next batch.
            self._lose_engine()
            raise
        finally:
            number = self._sent.popleft().number
            self._answered_at = time.monotonic()
        if answer is not None:
            return answer
        suspect, reason = self._lost or (number, "")
        return (
            Failed(Failure.CRASH, reason)
            if number == suspect
            else Unrun("The engine ended under another batch.")
        )

    def kill(self) -> None:
        """End the process now, if there is one. The running batch counts as crashed."""
        if self._engine is not None:
            self._engine.kill()

    def _lose_engine(self) -> None:
        """End the engine, and find the batch that it had begun: that batch is the suspect.

        If the engine had begun none of them, the first batch is the suspect. Otherwise a batch that no
        engine can begin would be retried for ever.
        """
        engine, numbers = self._engine, [sent.number for sent in self._sent]
        if self._lost is not None:
            return
        if engine is None or engine.killed:
            reason = "The engine process is gone."
        else:
            reason = "The engine process died." if engine.status() is not None else "The engine hung."
            engine.kill()
        begun = 0 if engine is None else engine.begun()[0]
        self._lost = (begun if begun in numbers else numbers[0], reason)

    def _left_s(self, engine: EngineProcess) -> float:
        """How much longer the oldest batch may take, in seconds.

        Its time counts from its start. Before that, it counts from when it could have started.
        """
        first, (number, begun_at) = self._sent[0], engine.begun()
        since = begun_at if number >= first.number else max(first.at, self._answered_at)
        return since + self._settings.batch_timeout_s - time.monotonic()

    def _failed_to_load(self, cause: LoadFailure, count: int = 1) -> None:
        metrics.ENGINE_LOAD_FAILURES.labels(model_name(self._settings), cause.value).inc(count)

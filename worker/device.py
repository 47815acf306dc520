"""The device's thread: sends batches to the engine, and reports the outcomes of their images.

The device's thread chooses the batches itself. Otherwise the device would be idle after each batch,
while the event loop handles earlier results. For the same reason the engine gets the next batch
shortly before the current one ends (`scheduler.handover`).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Final

from contracts.failures import WorkerFault
from contracts.ports.clock import Clock
from scheduler.recovery import Failure
from telemetry import metrics
from telemetry.logs import get_logger
from worker.active_images import ActiveImages, Chosen
from worker.engine.host import EngineHost, EngineLoadError
from worker.engine.messages import Answer, Done, Failed, Unrun
from worker.flights import Flights
from worker.images import Flight, Image, Outcome, TooLate, fault_of
from worker.reports import log_broken, report_batch, traced

RESTART_DELAYS_S: Final = (0.0, 1.0, 5.0)
"""Pauses before each try to restart a crashed engine."""
MAX_ERRORS: Final = 3
"""Times in a row that the policy may raise.

After them every active image fails if no culprit is found.
"""

log = get_logger(__name__)


class Device:
    """Runs batches on a separate thread. Outcomes go to the event loop that `start` gets.

    Other threads hold `changed` while they use public attributes.
    """

    def __init__(
        self, host: EngineHost, active: ActiveImages, clock: Clock, room_changed: asyncio.Event
    ) -> None:
        """`room_changed` is set when there may be room for more images."""
        self._host = host
        self._clock = clock
        self._room_changed = room_changed
        self.changed = threading.Condition()
        self.active = active
        self.incoming = 0
        """Images that were taken from the store, and are not added yet."""
        self.draining = False
        self.last_progress_at = clock.monotonic()
        """When a batch last ended, or the first active image came, by the monotonic clock."""
        self.flights = Flights(active, clock)
        self._armed = False
        """Whether the thread would hand over the next batch if that were full."""
        self._thread: threading.Thread | None = None

    def start(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
        """Run batches until the drain. Then `ended` is done.

        It raises `EngineLoadError` when a crashed engine cannot be restarted.
        """
        self._thread = threading.Thread(target=self._work, args=(loop, ended), name="device", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End the engine, even during a batch, and wait for the thread. Set `draining` before."""
        self._host.kill()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def active_changed(self) -> None:
        """Wake the thread where a change of the active images matters to it.

        Call it with `changed` held.
        """
        if not self.flights:
            self.changed.notify()
        elif self._armed and (self.active.full() or not self.incoming):
            self._armed = False
            self._host.wake()

    def _work(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
        """The device's thread. The event loop gets the outcomes, because it owns the futures."""
        reason: Exception | None = RuntimeError("The device's thread crashed.")
        try:
            while (flight := self._current_batch(loop)) is not None:
                outcomes = self._finish(flight, loop)
                self.last_progress_at = self._clock.monotonic()
                loop.call_soon_threadsafe(self._notify_all, flight.images, outcomes)
                if not (self._host.alive or self.flights or self.draining):
                    self._restart(flight.batch.key.model)
            reason = None
        except EngineLoadError as error:
            reason = error
        finally:
            loop.call_soon_threadsafe(self._end, ended, reason)

    def _current_batch(self, loop: asyncio.AbstractEventLoop) -> Flight | None:
        """The batch that the engine runs; None: the batcher has drained.

        An idle engine gets the next batch, as soon as there is one.
        """
        with self.changed:
            if self.flights:
                return self.flights.first
            while (chosen := self._choose(loop, self._clock.monotonic())) is None:
                if self.draining and not self.active.images:
                    return None
                self.changed.wait()
            flight = self.flights.take(chosen)
        self._launch(flight, loop)
        return flight

    def _finish(self, flight: Flight, loop: asyncio.AbstractEventLoop) -> list[Outcome | None]:
        """Finish one batch. Answers the outcome of each image.

        An error of our own code counts as a failure of the batch, as if the model had raised. Its
        images are bisected, and an image that fails alone is given up.
        """
        answer_due = flight.send_error is None
        try:
            with traced(flight) as span:
                if flight.send_error is not None:
                    raise flight.send_error
                self._wait_for_batch(loop)
                answer_due = False
                answer = self._host.receive()
                if isinstance(answer, Failed):
                    span.fail(answer.failure.value)
            with self.changed:
                self.flights.landed(flight, answer)
                outcomes = self._apply_result(flight, answer, span.traceparent)
        except Exception as error:  # noqa: BLE001 - the worker must survive any error
            log_broken("batch_broken", error, len(flight.images))
            metrics.BATCHES.labels(flight.batch.key.model, "broken").inc()
            not_run = flight.send_error is not None or (answer_due and self._discard_answer())
            with self.changed:
                self.flights.landed(flight, None)
                self.flights.steady = False
                for later in self.flights:
                    later.discarded.update(flight.images)
                if not_run:
                    self.active.requeue_leaving(flight)
                outcomes = self.active.after_failure(flight, Failure.FAULT, WorkerFault.of(error))
                if not self._host.alive:
                    self.active.engine_lost()
        else:
            self._report(flight, answer)
        return outcomes

    def _report(self, flight: Flight, answer: Answer) -> None:
        """Write logs and metrics of the batch, after it is settled. An error here fails no image."""
        try:
            report_batch(flight.batch.key.model, len(flight.images), answer)
        except Exception as error:  # noqa: BLE001 - the batch is over, and its images are settled
            log_broken("report_broken", error, len(flight.images))

    def _discard_answer(self) -> bool:
        """Read the answer to a batch that was given up. Answers whether the batch did not run.

        An answer that is not read would be taken for the answer to the next batch.
        """
        try:
            return isinstance(self._host.receive(), Unrun)
        except Exception as error:  # noqa: BLE001 - the engine is lost, and the batch is given up already
            log_broken("answer_broken", error, 0)
            return False

    def _wait_for_batch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until the batch that runs has ended. Hand over the next batch when that is due."""
        tried, due_s = False, None
        while True:
            try:
                with self.changed:
                    due_s = None if tried else self._due_in_s()
                    self._armed = not tried and (due_s is None or due_s > 0)
                if due_s == 0:
                    tried = True
                    self._hand_over(loop)
                    continue
            except Exception as error:  # noqa: BLE001 - the batch that runs did not cause it
                log_broken("hand_over_broken", error, len(self.active.images))
                tried = True
                continue
            if self._host.wait(due_s):
                break
        with self.changed:
            self._armed = False

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        with self.changed:
            chosen = self._choose(loop, self.flights.next_begins_at())
            if chosen is None:
                return
            flight = self.flights.take(chosen)
        self._launch(flight, loop)

    def _due_in_s(self) -> float | None:
        return self.flights.due_in_s(coming=self.incoming > 0) if self._host.alive else None

    def _choose(self, loop: asyncio.AbstractEventLoop, begins_at: float) -> Chosen | None:
        """The next batch, if there is anything to run.

        Images that are too late end with `TooLate`. Images for which the policy raises end with
        `WorkerFault`.
        """
        active, raised = self.active, 0
        while True:
            # Images may have been withdrawn since the last look.
            active.drop([image for image in active.images if image.result.done()])
            if self.draining:
                for image in active.images:
                    if not image.begun:
                        loop.call_soon_threadsafe(image.result.cancel)
                active.images = [image for image in active.images if image.begun]
            try:
                chosen = active.choose(begins_at)
            except Exception as error:  # noqa: BLE001 - the worker must survive any error
                raised += 1
                culprits = active.find_culprits(begins_at) or (
                    list(active.images) if raised >= MAX_ERRORS else []
                )
                log_broken("policy_broken", error, len(culprits))
                active.drop(culprits)
                loop.call_soon_threadsafe(
                    self._notify_all, culprits, [WorkerFault.of(error) for _ in culprits]
                )
                continue
            if chosen.late:
                active.drop(chosen.late)
                loop.call_soon_threadsafe(self._notify_all, chosen.late, [TooLate()] * len(chosen.late))
            return chosen if chosen.images else None

    def _launch(self, flight: Flight, loop: asyncio.AbstractEventLoop) -> None:
        """Send a batch to the engine.

        Call it without the lock: sending images to start from takes time.
        """
        try:
            self._host.send(flight.batch)
        except Exception as error:  # noqa: BLE001 - the images of the batch fail with it
            flight.send_error = error
        loop.call_soon_threadsafe(self._room_changed.set)

    def _apply_result(self, flight: Flight, answer: Answer, traceparent: str | None) -> list[Outcome | None]:
        """The outcome of each image of a batch; None: it runs again.

        Images that have ended are removed.
        """
        active, key, size = self.active, flight.batch.key, len(flight.images)
        if isinstance(answer, Done):
            active.limits.fitted(key, size)
            active.cost.ran(key, size, answer.seconds, answer.memory_bytes)
            return active.advance(flight, answer, traceparent)
        if isinstance(answer, Unrun):
            active.unrun(flight)
            outcomes: list[Outcome | None] = [None] * size
        else:
            if answer.failure is Failure.OUT_OF_MEMORY:
                active.limits.out_of_memory(key, size)
            outcomes = active.after_failure(flight, answer.failure, fault_of(answer))
        if not self._host.alive:
            active.engine_lost()
        return outcomes

    def _notify_all(self, images: Sequence[Image], outcomes: Sequence[Outcome | None]) -> None:
        """On the event loop: notify the images of their outcomes.

        An error with one image affects no other.
        """
        for image, outcome in zip(images, outcomes, strict=True):
            try:
                image.notify(outcome)
            except Exception as error:  # noqa: BLE001 - the job must not wait for ever
                log_broken("outcome_untold", error, 1)
                if not image.result.done():
                    image.result.set_exception(WorkerFault.of(error))
        self._room_changed.set()

    def _restart(self, model: str) -> None:
        """Restart the engine after a crash. Raises `EngineLoadError` after the last try."""
        metrics.ENGINE_RESTARTS.labels(model, "crash").inc()
        for number, delay_s in enumerate(RESTART_DELAYS_S, start=1):
            time.sleep(delay_s)
            try:
                self._host.start()
            except (EngineLoadError, OSError) as error:
                log.error("engine_restart_failed", reason=str(error))
                if number == len(RESTART_DELAYS_S):
                    raise EngineLoadError(str(error)) from error
            else:
                log.info("engine_restarted")
                self.flights.steady = True
                return

    def _end(self, ended: asyncio.Future[None], reason: Exception | None) -> None:
        """On the event loop, after all notifications: cancel the images left, and end `ended`."""
        for image in self.active.images:
            image.result.cancel()
        if ended.done():
            return
        if reason is None:
            ended.set_result(None)
        else:
            ended.set_exception(reason)

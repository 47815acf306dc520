"""`python -m worker.engine SOCKET LIFELINE BEGUN`: the engine process. It serves one host and ends with it.

The main thread runs batches and does nothing else. A second thread reads orders, so the next batch is
there when one ends. A third thread sends answers, so the device does not wait until the host reads
them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from queue import SimpleQueue
from typing import Any

from contracts.engine import Batch
from contracts.failures import OutOfMemory
from contracts.ports.image_engine import ImageEngine
from contracts.settings import WorkerSettings
from scheduler.recovery import Failure
from telemetry import logs
from worker.engine.container import machine_memory
from worker.engine.device_memory import device_memory
from worker.engine.errors import ModelLoadError, ModelLoadRetryable
from worker.engine.memory_watchdog import limit_of, watch
from worker.engine.messages import BEGUN, Answer, Answered, Done, Failed, LoadRefused, Order, Ready, Unrun
from worker.naming import model_name

DEVICE_LOST = 3
"""The exit status of an engine whose device does not answer any more."""

log = logs.get_logger("worker.engine")


def build(settings: WorkerSettings) -> ImageEngine:
    """Return the engine of the settings. torch is imported here and not earlier."""
    name = model_name(settings)
    if settings.engine == "fake":
        from worker.engine.fake import FakeEngine

        return FakeEngine(settings, name)
    from worker.engine.diffusers import DiffusersEngine

    return DiffusersEngine(settings, name)


def serve(connection: Connection[Any, Any], begun: int, settings: WorkerSettings) -> None:
    """Load the model, then answer orders until the host hangs up.

    `begun` is the write end of the pipe of `BEGUN` records.
    """
    try:
        engine = build(settings)
        spec = engine.load()
    except Exception as error:
        log.error("engine_unloadable", error=type(error).__name__, stack=traceback.format_exc())
        connection.send(unloadable(error))
        return
    connection.send(Ready(spec))
    orders: SimpleQueue[Order | None] = SimpleQueue()
    answers: SimpleQueue[memoryview | None] = SimpleQueue()
    threading.Thread(target=_read, args=(connection, orders), daemon=True).start()
    sender = threading.Thread(target=_send, args=(connection, answers), daemon=True)
    sender.start()
    last_succeeded, to_forget = True, list[int]()
    while (order := orders.get()) is not None:
        if order.ahead and not last_succeeded:
            # The host did not know that samples of this order are forgotten, or that so many do not fit.
            answers.put(_pickled(order.number, Unrun("The batch before it failed.")))
            continue
        os.write(begun, BEGUN.pack(order.number, time.monotonic()))
        batch = replace(order.batch, leaving=(*to_forget, *order.batch.leaving))
        to_forget.clear()
        answer = run(engine, batch)
        # Pickled before the next batch begins: otherwise that batch would be blamed for a failure here.
        try:
            message = _pickled(order.number, answer)
        except Exception as error:
            log.error("answer_unsaid", error=type(error).__name__)
            answer = Failed(Failure.FAULT, type(error).__name__)
            message = _pickled(order.number, answer)
            # The host assumes that they are forgotten, as after any failure.
            to_forget += batch.samples
        last_succeeded = isinstance(answer, Done)
        answers.put(message)
    # The remaining answers are still sent.
    answers.put(None)
    sender.join()


def _pickled(number: int, answer: Answer) -> memoryview:
    """The message with the answer to the order with this number. Raises what pickling raises."""
    return ForkingPickler.dumps(Answered(number, answer))


def _read(connection: Connection[Any, Any], orders: SimpleQueue[Order | None]) -> None:
    try:
        while True:
            orders.put(connection.recv())
    except (EOFError, OSError):
        orders.put(None)
    except Exception as error:
        # The stream of orders cannot be trusted any more. The process ends after the running batch, which is
        # not the cause.
        log.error("order_unreadable", error=type(error).__name__)
        orders.put(None)


def _send(connection: Connection[Any, Any], answers: SimpleQueue[memoryview | None]) -> None:
    try:
        while (message := answers.get()) is not None:
            connection.send_bytes(message)
    except Exception as error:
        # The host is gone, or it would wait for ever.
        log.error("answer_unsent", error=type(error).__name__)
        os._exit(1)


def unloadable(error: Exception) -> LoadRefused:
    """Return the message to the host for an `error` of loading.

    The text of our own errors is enough for the operator. Failures of memory, disk and network may
    batch.
    """
    if isinstance(error, ModelLoadError):
        return LoadRefused(str(error), isinstance(error, ModelLoadRetryable))
    missing = isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError)
    # torch.OutOfMemoryError is known by its name, because torch is not imported here.
    out_of_memory = isinstance(error, MemoryError | OutOfMemory) or type(error).__name__ == "OutOfMemoryError"
    may_pass = out_of_memory or (isinstance(error, OSError) and not missing)
    return LoadRefused(f"{type(error).__name__}: {error}", may_pass)


def run(engine: ImageEngine, batch: Batch) -> Done | Failed:
    """Run one batch. An exception of the model becomes an answer.

    If the device is lost, this function ends the process.
    """
    begun = time.perf_counter()
    try:
        samples = engine.advance(batch)
    except OutOfMemory as error:
        failed = Failed(Failure.OUT_OF_MEMORY, error.message)
    except Exception as error:
        # Messages of the model's libraries may contain a prompt. The log gets only the type and the place.
        stack = "".join(traceback.format_tb(error.__traceback__))
        log.warning("engine_fault", error=type(error).__name__, images=len(batch.samples), stack=stack)
        failed = Failed(Failure.FAULT, type(error).__name__)
    else:
        seconds = time.perf_counter() - begun
        return Done(samples, seconds, engine.peak_memory_bytes(), device_memory())
    # Outside the handlers: here no traceback holds the tensors of the batch any more.
    try:
        engine.free_memory()
    except Exception as error:
        # Every later batch would fail too. The host starts a new process and runs each of these images alone.
        # `os._exit`, because a lost device may also block Python's own clean-up.
        log.error("device_lost", error=type(error).__name__)
        os._exit(DEVICE_LOST)
    return failed


def _end_with(lifeline: int) -> None:
    """End the process when the host's end of the pipe closes, even in the middle of a batch."""
    os.read(lifeline, 1)
    os._exit(1)


def main() -> None:
    """Run the engine process with the three file descriptors of the command line."""
    # The host decides when the engine ends. A Ctrl-C at the terminal reaches the whole process group, but the
    # running batch is still wanted.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    socket, lifeline, begun = (int(fd) for fd in sys.argv[1:4])
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    settings = WorkerSettings.from_env()
    logs.configure(settings, service="engine")
    limit_bytes = limit_of(settings.engine_memory_bytes, machine_memory())
    if limit_bytes is not None:
        watch(limit_bytes)
    serve(Connection(socket), begun, settings)


if __name__ == "__main__":
    main()

"""`python -m worker.engine SOCKET LIFELINE BEGUN`: the engine process. It serves one host and ends with it.

The main thread runs passes and does nothing else. A second thread reads orders, so that the next pass is at hand when one ends; a third
sends answers, so that the device does not wait until they are read.
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

from contracts.engine import ImageEngine, Pass
from contracts.failures import OutOfMemory
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
"""Exit status."""

log = logs.get_logger("worker.engine")


def build(settings: WorkerSettings) -> ImageEngine:
    """The engine of the settings. torch is imported here and nowhere before."""
    name = model_name(settings)
    if settings.engine == "fake":
        from worker.engine.fake import FakeEngine

        return FakeEngine(settings, name)
    from worker.engine.diffusers import DiffusersEngine

    return DiffusersEngine(settings, name)


def serve(connection: Connection[Any, Any], begun: int, settings: WorkerSettings) -> None:
    """Load, then answer orders until the host hangs up. `begun` is the pipe for the beginnings of passes."""
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
    sending = threading.Thread(target=_send, args=(connection, answers), daemon=True)
    sending.start()
    well, untold = True, list[int]()
    while (order := orders.get()) is not None:
        if order.ahead and not well:
            # Whoever sent it did not know that samples of it are forgotten, or that so many do not fit.
            answers.put(_pickled(order.number, Unrun("The pass before it failed.")))
            continue
        os.write(begun, BEGUN.pack(order.number, time.monotonic()))
        batch = replace(order.batch, leaving=(*untold, *order.batch.leaving))
        untold.clear()
        answer = run(engine, batch)
        # Before the next pass begins, which would be blamed for what goes wrong here.
        try:
            word = _pickled(order.number, answer)
        except Exception as error:
            log.error("answer_unsaid", error=type(error).__name__)
            answer = Failed(Failure.FAULT, type(error).__name__)
            word = _pickled(order.number, answer)
            # The host takes them for forgotten, as after any failure.
            untold += batch.samples
        well = isinstance(answer, Done)
        answers.put(word)
    # What has been drawn is still told.
    answers.put(None)
    sending.join()


def _pickled(number: int, answer: Answer) -> memoryview:
    """What the host is told of the order with this number. Raises what pickling raises."""
    return ForkingPickler.dumps(Answered(number, answer))


def _read(connection: Connection[Any, Any], orders: SimpleQueue[Order | None]) -> None:
    try:
        while True:
            orders.put(connection.recv())
    except (EOFError, OSError):
        orders.put(None)
    except Exception as error:
        # Whatever came next might be taken for something else: the process ends, behind the pass that runs, which has no part in it.
        log.error("order_unreadable", error=type(error).__name__)
        orders.put(None)


def _send(connection: Connection[Any, Any], answers: SimpleQueue[memoryview | None]) -> None:
    try:
        while (word := answers.get()) is not None:
            connection.send_bytes(word)
    except Exception as error:
        # The host is gone, or would wait for ever.
        log.error("answer_unsent", error=type(error).__name__)
        os._exit(1)


def unloadable(error: Exception) -> LoadRefused:
    """What the operator is told. Our own errors speak for themselves. Memory, disks and networks may be better next time."""
    if isinstance(error, ModelLoadError):
        return LoadRefused(str(error), isinstance(error, ModelLoadRetryable))
    missing = isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError)
    # torch.OutOfMemoryError by its name: torch is not imported here.
    full = isinstance(error, MemoryError | OutOfMemory) or type(error).__name__ == "OutOfMemoryError"
    may_pass = full or (isinstance(error, OSError) and not missing)
    return LoadRefused(f"{type(error).__name__}: {error}", may_pass)


def run(engine: ImageEngine, batch: Pass) -> Done | Failed:
    """One pass; whatever the model raises becomes an answer, unless the device is lost with it: then this never returns."""
    begun = time.perf_counter()
    try:
        samples = engine.advance(batch)
    except OutOfMemory as error:
        failed = Failed(Failure.OUT_OF_MEMORY, error.message)
    except Exception as error:
        # Messages of the model's libraries may repeat a prompt: type and place must do for the log.
        stack = "".join(traceback.format_tb(error.__traceback__))
        log.warning("engine_fault", error=type(error).__name__, images=len(batch.samples), stack=stack)
        failed = Failed(Failure.FAULT, type(error).__name__)
    else:
        seconds = time.perf_counter() - begun
        return Done(samples, seconds, engine.peak_memory_bytes(), device_memory())
    # Outside of the handlers, where no traceback holds the pass's tensors any more.
    try:
        engine.free_memory()
    except Exception as error:
        # Every later pass would fail as well, whoever is in it. The host starts a fresh process, and runs these alone. At once:
        # a device that is lost may also block what Python does at its end.
        log.error("device_lost", error=type(error).__name__)
        os._exit(DEVICE_LOST)
    return failed


def _end_with(lifeline: int) -> None:
    """Ends the process when the host's end of the pipe closes, even in the middle of a batch."""
    os.read(lifeline, 1)
    os._exit(1)


def main() -> None:
    # The host decides: a Ctrl-C at the terminal reaches the whole group, and the running batch is still wanted.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    socket, lifeline, begun = (int(each) for each in sys.argv[1:4])
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    settings = WorkerSettings.from_env()
    logs.configure(settings, service="engine")
    limit_bytes = limit_of(settings.engine_memory_bytes, machine_memory())
    if limit_bytes is not None:
        watch(limit_bytes)
    serve(Connection(socket), begun, settings)


if __name__ == "__main__":
    main()

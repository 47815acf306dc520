"""Celery's pool for tasks that answer with a future: deliveries are held, many at a time, and no thread waits for any of them.

Celery's own pools keep a thread or a process for each task that is under way. Here the task only hands its message to the worker's event loop. When
the future is done, Celery's request is told so on the thread that ended it, as by Celery's pool of threads; the ack itself is sent by the
consumer, on its own thread, which is woken for it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

from billiard.einfo import ExceptionInfo
from celery.concurrency.base import BasePool
from celery.exceptions import Reject

from telemetry.logs import get_logger
from worker.taker import Verdict

log = get_logger(__name__)


class FuturePool(BasePool):  # type: ignore[misc]
    """A task of it answers a future of what becomes of its message. What the future or the task raises makes the message a dead letter,
    but for Celery's `Reject`, which says itself."""

    body_can_be_buffer = True
    signal_safe = False
    task_join_will_block = False

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._held = 0
        self._changed = threading.Condition()

    def on_apply(
        self,
        target: Any,
        args: Any = (),
        kwargs: Any = None,
        callback: Any = None,
        accept_callback: Any = None,
        **_: Any,
    ) -> None:
        """On the consumer's thread, for each message. `target` would be Celery's tracer around the task, for tasks that end when they
        return; of its arguments the first is the task's name, and the third is the request."""
        begun = time.monotonic()
        name, _id, request = args[:3]
        accept_callback(os.getpid(), begun)
        with self._changed:
            self._held += 1
        future: Future[Verdict]
        try:
            future = self.app.tasks[name].run(*request["args"], **request["kwargs"])
        except Exception as error:  # noqa: BLE001 - it is the answer
            future = Future()
            future.set_exception(error)
        future.add_done_callback(partial(self._ended, callback, begun))

    def on_stop(self) -> None:
        """Returns when nothing is held any more: the worker's event loop has been told to drain."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held)

    def _ended(self, callback: Callable[[Any], object], begun: float, future: Future[Verdict]) -> None:
        """On whichever thread has ended it."""
        try:
            callback(_outcome(future, time.monotonic() - begun))
        except Exception as error:  # noqa: BLE001 - the others are answered all the same
            # It stays unanswered, and comes back when the connection ends.
            log.error("delivery_unanswered", error=type(error).__name__)
        finally:
            with self._changed:
                self._held -= 1
                self._changed.notify()


def _outcome(future: Future[Verdict], seconds: float) -> tuple[bool, Any, float]:
    """As Celery's tracer answers: whether it failed, how, and how long it took."""
    try:
        try:
            verdict = future.result()
        except CancelledError:
            raise Reject("the worker ends", requeue=True) from None
        if verdict is not Verdict.ACK:
            raise Reject("given back", requeue=True)
    except Exception:  # noqa: BLE001 - it is the answer
        # Celery wants the traceback too, which only what has been raised has.
        return True, ExceptionInfo(), seconds
    return False, None, seconds

"""Deliveries are held, many at a time, and no thread waits for any of them.

Celery makes a request object of each message, and runs it in a pool that keeps a thread or a process for it. Our task only holds the message
until its job has ended, so the consumer does less (`strategy`): it hands a receipt to the task, which answers with a future. The ack is
sent by the consumer, on its own thread, which is woken for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

from celery.concurrency.base import BasePool
from celery.exceptions import Reject

from telemetry.logs import get_logger
from worker.deliveries import Verdict
from worker.receipt import Receipt

Answer = Callable[[Verdict | Exception], object]

log = get_logger(__name__)
_logger = logging.getLogger(__name__)


class FuturePool(BasePool):  # type: ignore[misc]
    """Counts the deliveries that are held, and keeps the consumer from ending before they are answered."""

    body_can_be_buffer = True
    signal_safe = False
    task_join_will_block = False

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._held = 0
        self._changed = threading.Condition()

    def hold(self, future: Future[Verdict], answer: Answer) -> None:
        """Until the future is done; then `answer` is told, on the thread that ended it."""
        with self._changed:
            self._held += 1
        future.add_done_callback(partial(self._ended, answer))

    def on_stop(self) -> None:
        """Returns when nothing is held any more: the worker's event loop has been told to drain."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held)

    def _ended(self, answer: Answer, future: Future[Verdict]) -> None:
        try:
            answer(_outcome(future))
        except Exception as error:  # noqa: BLE001 - the others are answered all the same
            # It stays unanswered, and comes back when the connection ends.
            log.error("delivery_unanswered", error=type(error).__name__)
        finally:
            with self._changed:
                self._held -= 1
                self._changed.notify()


def strategy(task: Any, app: Any, consumer: Any, **_: Any) -> Callable[..., None]:
    """What Celery's consumer does with each message of a task (`Task.Strategy`). The task is given its receipt, and answers a verdict, or a
    future of one. What is raised makes the message a dead letter, but for Celery's `Reject`, which says itself."""
    pool: FuturePool = consumer.pool
    errors = consumer.connection_errors

    def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> None:
        """On the consumer's thread. `ack` and `reject` may be called from any."""

        def answer(verdict: Verdict | Exception) -> None:
            if verdict is Verdict.ACK:
                ack(_logger, errors)
            else:
                requeue = verdict is Verdict.REQUEUE or (isinstance(verdict, Reject) and verdict.requeue)
                reject(_logger, errors, requeue)

        try:
            held = task.run(Receipt(message))
        except Exception as error:  # noqa: BLE001 - it is the answer
            answer(error)
            return
        if isinstance(held, Future):
            pool.hold(held, answer)
        else:
            answer(held)

    return handle


def _outcome(future: Future[Verdict]) -> Verdict | Exception:
    try:
        return future.result()
    except CancelledError:
        return Verdict.REQUEUE  # the worker ends
    except Exception as error:  # noqa: BLE001 - it is the answer
        if not isinstance(error, Reject):
            log.error("delivery_failed", error=type(error).__name__)
        return error

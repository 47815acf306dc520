"""A Celery pool that holds many deliveries, without a thread for each.

Celery makes a request object of each message, and its pools keep a thread or a process for it. Our
task only holds the message until its job has ended. The consumer therefore passes a receipt to the
task, which answers a future (`strategy`). The consumer is woken for the ack, and sends it on its
thread.
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
    """Counts the held deliveries, and keeps the consumer from ending before they are answered."""

    body_can_be_buffer = True
    signal_safe = False
    task_join_will_block = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held = 0
        self._changed = threading.Condition()

    def hold(self, future: Future[Verdict], answer: Answer) -> None:
        """Count a delivery until its future is done.

        Then call `answer` on the thread that ended it.
        """
        with self._changed:
            self._held += 1
        future.add_done_callback(partial(self._ended, answer))

    def on_stop(self) -> None:
        """Wait until no delivery is held. `on_close` has started the drain."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held)

    def _ended(self, answer: Answer, future: Future[Verdict]) -> None:
        try:
            answer(_outcome(future))
        except Exception as error:  # noqa: BLE001 - the other deliveries must be answered
            # This delivery comes back when the connection ends.
            log.error("delivery_unanswered", error=type(error).__name__)
        finally:
            with self._changed:
                self._held -= 1
                self._changed.notify()


def strategy(task: Any, app: Any, consumer: Any, **_: Any) -> Callable[..., None]:
    """The handler of a task's messages for Celery's consumer (`Task.Strategy`).

    The task gets a `Receipt`, and answers a verdict or a future of one. A message whose task raises
    becomes a dead letter. Celery's `Reject` says itself whether to requeue.
    """
    pool: FuturePool = consumer.pool
    errors = consumer.connection_errors

    def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> None:
        """Handle one message, on the consumer's thread.

        `ack` and `reject` are safe on any thread.
        """

        def answer(verdict: Verdict | Exception) -> None:
            if verdict is Verdict.ACK:
                ack(_logger, errors)
            else:
                requeue = verdict is Verdict.REQUEUE or (isinstance(verdict, Reject) and verdict.requeue)
                reject(_logger, errors, requeue)

        try:
            verdict = task.run(Receipt(message))
        except Exception as error:  # noqa: BLE001 - it decides the answer
            answer(error)
            return
        if isinstance(verdict, Future):
            pool.hold(verdict, answer)
        else:
            answer(verdict)

    return handle


def _outcome(future: Future[Verdict]) -> Verdict | Exception:
    try:
        return future.result()
    except CancelledError:
        return Verdict.REQUEUE  # the worker is ending
    except Exception as error:  # noqa: BLE001 - it decides the answer
        if not isinstance(error, Reject):
            log.error("delivery_failed", error=type(error).__name__)
        return error

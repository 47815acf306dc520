"""The Celery application: one task on one queue, whose messages are held until their jobs have ended."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any, Final

from celery import Celery, signals

from broker.topology import TASK_NAME, job_queue, only_ours, transport_options
from contracts.models import ModelSpec
from contracts.settings import WorkerSettings
from worker.deliveries import Verdict
from worker.pool import FuturePool
from worker.receipt import Receipt
from worker.runtime import Runtime

HEARTBEAT_S: Final = 10
"""A connection whose other end is silently gone is noticed within two of them."""


def create_app(settings: WorkerSettings, runtime: Runtime, spec: ModelSpec) -> Celery:
    """The application that consumes the queue of `spec` for `runtime`."""
    queue = job_queue(spec.name, settings)
    app = Celery("darkroom", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_queues=[queue],
        task_default_queue=queue.name,
        task_create_missing_queues=False,
        task_acks_late=True,
        task_acks_on_failure_or_timeout=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        worker_prefetch_multiplier=1,
        worker_consumer="worker.consumer:JobConsumer",
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        broker_heartbeat=HEARTBEAT_S,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=transport_options(settings.broker_url),
    )

    def generate(receipt: Receipt) -> Future[Verdict] | Verdict:
        """One delivery: see `strategy`. Returns at once."""
        return runtime.run(receipt)

    app.task(generate, name=TASK_NAME, Strategy="worker.pool:strategy")
    only_ours(app)
    return app


def consume(app: Celery, settings: WorkerSettings, runtime: Runtime) -> int:
    """Consumes until SIGTERM or SIGINT, or an error that Celery does not recover from, then drains. Two batches of messages are in
    hand: one runs, one gathers. Answers 0 after a signal, else Celery's exit code."""
    signalled = threading.Event()

    def shutting_down(**_: Any) -> None:
        signalled.set()
        runtime.drain()

    class Pool(FuturePool):
        def on_close(self) -> None:
            # Whatever it is that ends the consumer: nothing is held for long any more.
            runtime.drain()

    signals.setup_logging.connect(_keep_our_logging)
    signals.worker_ready.connect(lambda **_: runtime.announce(), weak=False)
    signals.worker_shutting_down.connect(shutting_down, weak=False)
    worker = app.Worker(
        pool=Pool,
        concurrency=settings.deliveries,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
        loglevel=settings.log_level.upper(),
    )
    worker.start()
    return 0 if signalled.is_set() else worker.exitcode or 0


def _keep_our_logging(**_: Any) -> None:
    """Connected, so that Celery leaves logging alone."""

"""The Celery application: one task on one queue. A message is acked when its job has ended."""

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
"""AMQP heartbeat in seconds. A dead connection is noticed within two heartbeats."""


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
        """Hold one delivery (see `worker.pool.strategy`). Returns at once."""
        return runtime.run(receipt)

    app.task(generate, name=TASK_NAME, Strategy="worker.pool:strategy")
    only_ours(app)
    return app


def consume(app: Celery, settings: WorkerSettings, runtime: Runtime) -> int:
    """Consume until SIGTERM or SIGINT, or an error that Celery does not recover from, then drain.

    The worker holds the messages of at most two batches: one runs, the next one gathers. Answers 0
    after a signal, else Celery's exit code.
    """
    signalled = threading.Event()

    def shutting_down(**_: Any) -> None:
        signalled.set()
        runtime.drain()

    class Pool(FuturePool):
        def on_close(self) -> None:
            # The consumer may end without a signal. A drain lets go of all deliveries soon.
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
    """Does nothing. Celery leaves logging alone while its `setup_logging` signal has a receiver."""

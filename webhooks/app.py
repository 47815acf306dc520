"""The Celery application of webhooks: its own queue, and a task that makes one attempt."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from celery import Celery, signals
from celery.exceptions import Reject
from kombu.exceptions import OperationalError
from pydantic import ValidationError

from broker.topology import is_redis, only_ours, transport_options, webhook_queue
from contracts.errors import BrokerUnavailable
from contracts.settings import WebhookSettings
from contracts.webhooks import Call
from telemetry.logs import get_logger

TASK_NAME: Final = "darkroom.webhook"
HEARTBEAT_S: Final = 20

log = get_logger(__name__)


def create_app(settings: WebhookSettings, run: Callable[[Call], None]) -> Celery:
    """The application whose task passes each call to `run`, which may block."""
    queue = webhook_queue(settings)
    options = transport_options(settings.broker_url)
    if not is_redis(settings.broker_url):
        options["confirm_publish"] = True
    app = Celery("darkroom-webhooks", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_queues=[queue],
        task_default_queue=queue.name,
        task_create_missing_queues=False,
        # Acked at once: a slow receiver holds no message. The outbox repeats what is lost.
        task_acks_late=False,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_consumer="worker.consumer:JobConsumer",
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        broker_heartbeat=HEARTBEAT_S,
        broker_connection_timeout=settings.publish_timeout_s,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=options,
    )

    def deliver(call: Any) -> None:
        try:
            parsed = Call.model_validate(call)
        except ValidationError as error:
            log.error("message_refused", faults=error.error_count())
            raise Reject("not a webhook call", requeue=False) from None
        run(parsed)

    app.task(deliver, name=TASK_NAME)
    only_ours(app)
    return app


class Enqueuer:
    """Puts calls on the queue, on another thread than the event loop's."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._lock = threading.Lock()

    async def __call__(self, calls: Sequence[Call]) -> None:
        """Put `calls` on the queue. Raises `BrokerUnavailable`; some may be on the queue then."""
        await asyncio.to_thread(self._put, calls)

    def _put(self, calls: Sequence[Call]) -> None:
        try:
            with self._lock, self._app.producer_pool.acquire(block=True) as producer:
                for call in calls:
                    self._app.tasks[TASK_NAME].apply_async(
                        (call.model_dump(mode="json"),), producer=producer, retry=False
                    )
        except (OperationalError, OSError, *self._app.connection_for_write().connection_errors) as error:
            raise BrokerUnavailable(f"The broker took no webhook calls: {type(error).__name__}.") from error


def consume(app: Celery, settings: WebhookSettings) -> None:
    """Consume until SIGTERM or SIGINT, then wait for the attempts that run."""
    signals.setup_logging.connect(_keep_our_logging)
    worker = app.Worker(
        pool="threads",
        concurrency=settings.webhook_concurrency,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
        loglevel=settings.log_level.upper(),
    )
    worker.start()


def _keep_our_logging(**_: Any) -> None:
    """Celery configures no logging while this signal has a receiver."""

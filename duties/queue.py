"""A Celery application with one queue and one task, for duties of one kind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from celery import Celery, signals
from celery.exceptions import Reject
from kombu import Queue
from kombu.exceptions import OperationalError
from pydantic import BaseModel, ValidationError

from broker.topology import is_redis, only_ours, transport_options
from contracts.errors import BrokerUnavailable
from contracts.settings import BackendSettings
from telemetry.logs import get_logger

HEARTBEAT_S: Final = 20

D = TypeVar("D", bound=BaseModel)

log = get_logger(__name__)


class DutyQueue(Generic[D]):
    """Puts duties of the type `duty` on `queue`, and runs them.

    `name` is that of the process and of its task. `run` gets each duty on a thread of Celery, and may
    block. `late`: a message is acked once its duty has run, so that another process runs it soon after
    a crash. Otherwise it is acked at once, and the outbox repeats what is lost.
    """

    def __init__(
        self,
        settings: BackendSettings,
        name: str,
        queue: Queue,
        duty: type[D],
        run: Callable[[D], None],
        *,
        late: bool,
    ) -> None:
        self._lock = threading.Lock()
        self._task = f"darkroom.{name}"
        self.app = Celery(f"darkroom-{name}", broker=settings.broker_url, set_as_current=False)
        self.app.conf.update(
            accept_content=["json"],
            task_serializer="json",
            task_queues=[queue],
            task_default_queue=queue.name,
            task_create_missing_queues=False,
            task_acks_late=late,
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
            broker_transport_options=_options(settings),
        )

        def perform(document: Any) -> None:
            try:
                parsed = duty.model_validate(document)
            except ValidationError as error:
                log.error("message_refused", faults=error.error_count())
                raise Reject(f"not a duty of {name}", requeue=False) from None
            run(parsed)

        self.app.task(perform, name=self._task)
        only_ours(self.app)

    async def put(self, duties: Sequence[D]) -> None:
        """Put `duties` on the queue, on another thread than the event loop's.

        Raises `BrokerUnavailable`; some may be on the queue then.
        """
        await asyncio.to_thread(self._put, duties)

    def consume(self, concurrency: int, log_level: str) -> None:
        """Run duties until SIGTERM or SIGINT, then wait for those that run. Raises `SystemExit` at the end."""
        signals.setup_logging.connect(_keep_our_logging)
        worker = self.app.Worker(
            pool="threads",
            concurrency=concurrency,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
            loglevel=log_level.upper(),
        )
        worker.start()

    def _put(self, duties: Sequence[D]) -> None:
        task, errors = self.app.tasks[self._task], self.app.connection_for_write().connection_errors
        try:
            with self._lock, self.app.producer_pool.acquire(block=True) as producer:
                for duty in duties:
                    task.apply_async((duty.model_dump(mode="json"),), producer=producer, retry=False)
        except (OperationalError, OSError, *errors) as error:
            raise BrokerUnavailable(f"The broker took no duties: {type(error).__name__}.") from error


def _options(settings: BackendSettings) -> dict[str, Any]:
    options = transport_options(settings.broker_url)
    return options if is_redis(settings.broker_url) else {**options, "confirm_publish": True}


def _keep_our_logging(**_: Any) -> None:
    """Celery configures no logging while this signal has a receiver."""

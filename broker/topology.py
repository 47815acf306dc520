"""What lies on the broker: one durable queue per model, where refused messages go, and the shape of a message.

The names and arguments here are a contract between API and workers: whoever comes first declares the queue, and all
others must declare it alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from amqp.exceptions import PreconditionFailed
from kombu import Connection, Queue

from broker import tls  # noqa: F401 - what amqps:// means
from contracts.errors import QueueMisdeclared
from contracts.jobs import JobMessage
from contracts.settings import BackendSettings

TASK_NAME: Final = "darkroom.generate"
WEBHOOK_QUEUE: Final = "darkroom.webhooks"
WEBHOOK_QUEUE_LENGTH: Final = 10_000
"""Calls that wait in the queue; the rest waits in the outbox, which is where the duty is in any case."""
DEAD_LETTER_QUEUE: Final = "darkroom.dead"
REFUSED_QUEUE: Final = "darkroom.refused"
REFUSED_MAX_LENGTH: Final = 10_000
DELIVERY_LIMIT: Final = 50
"""Deliveries of one message before it counts as poison. Far above the attempts of a job, which the job store counts: a
crash also redelivers the innocent messages that the worker held."""
REDIS_OPTIONS: Final = {
    # How long an unacknowledged message stays with a worker that may be dead. A living one's claim outlasts it.
    "visibility_timeout": 15.0,
    # Look for such messages every two seconds, and each time for real.
    "unacked_restore_interval": 2,
    "unacked_restore_throttle": 1,
}


def queue_name(model: str) -> str:
    """The queue of a model's jobs."""
    return f"darkroom.jobs.{model}"


def only_ours(app: Any) -> None:
    """Leaves a Celery application the tasks that are its own. Celery adds some that run whatever a message names
    (`celery.map`, `celery.chord` ...): on our queues they are unknown tasks like any other."""
    app.finalize()
    for name in [name for name in app.tasks if name.startswith("celery.")]:
        app.tasks.pop(name)


def job_queue(model: str, settings: BackendSettings) -> Queue:
    """The model's queue: replicated, bounded, refusing rather than dropping, its poison kept. Redis ignores all that."""
    name = queue_name(model)
    return Queue(
        name,
        exchange="",
        routing_key=name,
        durable=True,
        queue_arguments={
            "x-queue-type": "quorum",
            "x-overflow": "reject-publish",
            "x-max-length": settings.queue_max_length,
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": DEAD_LETTER_QUEUE,
            "x-dead-letter-strategy": "at-least-once",
        },
    )


def webhook_queue(settings: BackendSettings) -> Queue:
    """The queue of webhook calls: bounded, refusing rather than dropping. Its messages are wake-ups and may be lost."""
    length = min(WEBHOOK_QUEUE_LENGTH, settings.queue_max_length)
    return Queue(
        WEBHOOK_QUEUE,
        exchange="",
        routing_key=WEBHOOK_QUEUE,
        durable=True,
        queue_arguments={"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-max-length": length},
    )


def dead_letter_queue() -> Queue:
    return Queue(
        DEAD_LETTER_QUEUE,
        exchange="",
        routing_key=DEAD_LETTER_QUEUE,
        durable=True,
        queue_arguments={"x-queue-type": "quorum"},
    )


def refused_queue() -> Queue:
    """Where what is no job is kept for people to look at; the oldest goes when it is full."""
    return Queue(
        REFUSED_QUEUE,
        exchange="",
        routing_key=REFUSED_QUEUE,
        durable=True,
        queue_arguments={"x-queue-type": "quorum", "x-max-length": REFUSED_MAX_LENGTH},
    )


def declare(channel: Any, model: str, settings: BackendSettings) -> None:
    """Declares the model's queue and the dead letter queue. Raises the transport's errors."""
    for queue in (dead_letter_queue(), job_queue(model, settings)):
        queue(channel).declare()


def check_topology(settings: BackendSettings, models: Iterable[str]) -> None:
    """Declares the queues of `models`. Raises `QueueMisdeclared` where one exists with other arguments; a broker that is
    away is no fault of the topology, and is left to those who need it."""
    if is_redis(settings.broker_url):
        return
    connection = publisher_connection(settings)
    try:
        with connection:
            for model in models:
                declare(connection.channel(), model, settings)
    except PreconditionFailed as error:
        raise QueueMisdeclared(
            f"A queue on the broker is not what this process declares: {error.reply_text}. It was declared by another version or "
            "under another DARKROOM_QUEUE_MAX_LENGTH: use the same everywhere, or drain and delete the queue."
        ) from error
    except (*connection.connection_errors, *connection.channel_errors, OSError):
        return


def is_redis(url: str) -> bool:
    """Whether the broker is Redis, which knows neither confirms nor queue limits."""
    return url.startswith(("redis://", "rediss://"))


def transport_options(url: str) -> dict[str, Any]:
    """Options of the consumers' transport."""
    return dict(REDIS_OPTIONS) if is_redis(url) else {}


def publisher_connection(settings: BackendSettings, *, confirm: bool = True) -> Connection:
    """A connection to publish on, not yet open, on which nothing waits longer than the publish timeout. With `confirm` each publish
    waits for its own."""
    limit_s = settings.publish_timeout_s
    if is_redis(settings.broker_url):
        options: dict[str, Any] = {"socket_timeout": limit_s, "socket_connect_timeout": limit_s}
    else:
        # Confirms alone bound nothing: a dead peer is noticed by the socket's own timeouts.
        options = {"confirm_publish": confirm, "read_timeout": limit_s, "write_timeout": limit_s}
    return Connection(settings.broker_url, connect_timeout=limit_s, heartbeat=0, transport_options=options)


_EMBED: Final = json.dumps({"callbacks": None, "errbacks": None, "chain": None, "chord": None})


def task_message(message: JobMessage) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    """Body, headers and properties of a job as a Celery task, message protocol 2
    (https://docs.celeryq.dev/en/stable/internals/protocol.html). The task's id is the job's. Headers that
    would name what Celery takes for granted are left out: each is packed and unpacked for every job."""
    task_id = message.job_id
    body = f"[[{message.model_dump_json()}], {{}}, {_EMBED}]"
    headers = {
        "lang": "py",
        "task": TASK_NAME,
        "id": task_id,
        # Celery logs these: no prompt may be in them.
        "argsrepr": f"({task_id})",
        "kwargsrepr": "{}",
        "ignore_result": True,
        # Where brokers and their tools look for it; the worker takes it from the job.
        **({"traceparent": message.origin.traceparent} if message.origin.traceparent else {}),
    }
    properties = {"correlation_id": task_id, "message_id": task_id}
    return body.encode("utf-8"), headers, properties

"""The queues on the broker, one per model, their arguments, and the format of a message.

Names and arguments are a contract between the API and the workers. The first process declares a queue,
and all others must declare it with the same arguments.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from amqp.exceptions import PreconditionFailed
from kombu import Connection, Queue

from broker import tls  # noqa: F401 - registers the transport of amqps://
from contracts.errors import QueueMisdeclared
from contracts.jobs import JobMessage
from contracts.settings import BackendSettings

TASK_NAME: Final = "darkroom.generate"
WEBHOOK_QUEUE: Final = "darkroom.webhooks"
SEARCH_QUEUE: Final = "darkroom.search"
SECOND_LOOK_QUEUE: Final = "darkroom.second_look"
DUTY_QUEUE_LENGTH: Final = 10_000
"""The most duties in a queue. Further ones wait in the outbox, which holds every duty anyway."""
DEAD_LETTER_QUEUE: Final = "darkroom.dead"
REFUSED_QUEUE: Final = "darkroom.refused"
REFUSED_MAX_LENGTH: Final = 10_000
DELIVERY_LIMIT: Final = 50
"""How often one message is delivered before it counts as poison.

It is far above the attempts of a job, which the job store counts. A crash also redelivers the innocent messages
that the worker held.
"""
REDIS_OPTIONS: Final = {
    # Seconds until an unacknowledged message of a worker is redelivered. A live worker's claim lasts longer.
    "visibility_timeout": 15.0,
    # Look for such messages every two seconds, without skipping a check.
    "unacked_restore_interval": 2,
    "unacked_restore_throttle": 1,
}


def queue_name(model: str) -> str:
    """The name of the queue of a model's jobs."""
    return f"darkroom.jobs.{model}"


def only_ours(app: Any) -> None:
    """Remove Celery's built-in tasks from an application.

    Celery adds some that run whatever a message names (`celery.map`, `celery.chord` ...). On our queues they
    must be unknown tasks.
    """
    app.finalize()
    for name in [name for name in app.tasks if name.startswith("celery.")]:
        app.tasks.pop(name)


def job_queue(model: str, settings: BackendSettings) -> Queue:
    """The model's queue: replicated, bounded, rejects publishes when full, and dead-letters poison.

    Redis ignores these arguments.
    """
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
    """The queue of webhook calls."""
    return _queue_of_duties(WEBHOOK_QUEUE, settings)


def search_queue(settings: BackendSettings) -> Queue:
    """The queue of images that are owed to the search index."""
    return _queue_of_duties(SEARCH_QUEUE, settings)


def second_look_queue(settings: BackendSettings) -> Queue:
    """The queue of held images that a model is to look at."""
    return _queue_of_duties(SECOND_LOOK_QUEUE, settings)


def _queue_of_duties(name: str, settings: BackendSettings) -> Queue:
    """A queue of duties: bounded, rejects publishes when full.

    Its messages are wake-ups and may be lost.
    """
    length = min(DUTY_QUEUE_LENGTH, settings.queue_max_length)
    return Queue(
        name,
        exchange="",
        routing_key=name,
        durable=True,
        queue_arguments={"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-max-length": length},
    )


def dead_letter_queue() -> Queue:
    """The queue of messages that the broker gave up on."""
    return Queue(
        DEAD_LETTER_QUEUE,
        exchange="",
        routing_key=DEAD_LETTER_QUEUE,
        durable=True,
        queue_arguments={"x-queue-type": "quorum"},
    )


def refused_queue() -> Queue:
    """The queue of messages that are no jobs, for an operator to look at.

    The oldest is dropped when it is full.
    """
    return Queue(
        REFUSED_QUEUE,
        exchange="",
        routing_key=REFUSED_QUEUE,
        durable=True,
        queue_arguments={"x-queue-type": "quorum", "x-max-length": REFUSED_MAX_LENGTH},
    )


def declare(channel: Any, model: str, settings: BackendSettings) -> None:
    """Declare the model's queue and the dead letter queue. Raises the transport's errors."""
    for queue in (dead_letter_queue(), job_queue(model, settings)):
        queue(channel).declare()


def check_topology(settings: BackendSettings, models: Iterable[str]) -> None:
    """Declare the queues of `models`.

    Raises `QueueMisdeclared` if a queue exists with other arguments. A broker that is away is no fault of the
    topology, so it raises nothing here.
    """
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
    """Whether the broker is Redis, which has neither confirms nor queue limits."""
    return url.startswith(("redis://", "rediss://"))


def transport_options(url: str) -> dict[str, Any]:
    """The options of the consumers' transport."""
    return dict(REDIS_OPTIONS) if is_redis(url) else {}


def publisher_connection(settings: BackendSettings, *, confirm: bool = True) -> Connection:
    """A publishing connection, not yet open. No operation on it waits longer than the publish timeout.

    With `confirm`, each publish waits for its own confirm.
    """
    limit_s = settings.publish_timeout_s
    if is_redis(settings.broker_url):
        options: dict[str, Any] = {"socket_timeout": limit_s, "socket_connect_timeout": limit_s}
    else:
        # The confirm timeout alone is not enough: only the socket's timeouts notice a dead peer.
        options = {"confirm_publish": confirm, "read_timeout": limit_s, "write_timeout": limit_s}
    return Connection(settings.broker_url, connect_timeout=limit_s, heartbeat=0, transport_options=options)


_EMBED: Final = json.dumps({"callbacks": None, "errbacks": None, "chain": None, "chord": None})


def task_message(message: JobMessage) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    """Body, headers and properties of a job as a Celery task of message protocol 2.

    See https://docs.celeryq.dev/en/stable/internals/protocol.html. The task id is the job id. Headers that
    equal Celery's defaults are left out, since each is packed and unpacked for every job.
    """
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
        # Brokers and their tools look for it here. The worker takes it from the job.
        **({"traceparent": message.origin.traceparent} if message.origin.traceparent else {}),
    }
    properties = {"correlation_id": task_id, "message_id": task_id}
    return body.encode("utf-8"), headers, properties

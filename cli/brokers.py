"""The broker as `darkroom doctor` sees it: there, ours to use, new enough, its queues as declared, nothing given up on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from uuid import uuid4

from amqp.exceptions import AccessRefused, NotAllowed

from broker.topology import (
    DEAD_LETTER_QUEUE,
    REFUSED_QUEUE,
    check_topology,
    is_redis,
    publisher_connection,
    queue_name,
)
from cli.findings import Finding, fault, ok, warn
from contracts.errors import QueueMisdeclared
from contracts.settings import BackendSettings
from store.probe import refusal, tls_error

OLDEST_RABBIT: Final = (3, 10)
"""At-least-once dead lettering, https://www.rabbitmq.com/docs/quorum-queues."""
TLS_MEND: Final = (
    "look at the dates of both certificates, the names in the server's, and the files that the URL names"
)


def broker(settings: BackendSettings, models: list[str]) -> Iterator[Finding]:
    """All findings, as they come."""
    connection = publisher_connection(settings)
    alarms: list[str] = []
    try:
        connection.connect()
        if is_redis(settings.broker_url):
            yield warn("Redis is the broker", "use RabbitMQ in production: Redis confirms nothing")
            return
        connection.connection.on_blocked = alarms.append
        told = str(connection.connection.server_properties.get("version", "0.0"))
        if tuple(int(part) for part in told.split(".")[:2]) < OLDEST_RABBIT:
            yield fault(f"RabbitMQ {told} is too old", "use RabbitMQ 3.10 or newer")
        else:
            yield ok(f"RabbitMQ {told}")
        check_topology(settings, models)
        _try(connection.channel(), settings.publish_timeout_s)
        yield ok("queues can be declared, written to and read")
        for name in (*map(queue_name, models), DEAD_LETTER_QUEUE, REFUSED_QUEUE):
            yield _depth(connection, name)
    except QueueMisdeclared as error:
        yield fault(
            str(error), "drain and delete the queue, or set DARKROOM_QUEUE_MAX_LENGTH alike everywhere"
        )
    except (*connection.connection_errors, *connection.channel_errors, OSError) as error:
        yield judge_broker(error, alarms)
    finally:
        connection.release()


def judge_broker(error: BaseException, alarms: list[str]) -> Finding:
    """What an error of the broker's means. `alarms` are the reasons for which it blocks those who publish. Pure."""
    url = "DARKROOM_BROKER_URL"
    if alarms:
        return fault(
            f"the broker takes no messages: {alarms[-1]}",
            "make room on its disk or in its memory; rabbitmq-diagnostics alarms says which node",
        )
    match error:
        case AccessRefused() if error.method_sig[0] == 0:
            return fault("the broker refuses this user or password", f"correct them in {url}")
        case AccessRefused():
            return fault(
                f"the broker does not let this user do what is needed: {error.reply_text}",
                "give the user the permissions that docs/security.md lists",
            )
        case NotAllowed():
            return fault(
                f"the broker has no such virtual host for this user: {error.reply_text}",
                f"correct the end of {url} (`//` is the virtual host `/`), or add the virtual host and the user's permissions on it",
            )
    if (tls := tls_error(error)) is not None:
        return fault(f"the broker's certificate, or ours, is refused: {tls.reason or tls}", TLS_MEND)
    if (found := refusal(error)) is not None:
        return fault(f"the broker {found}: {error}", f"correct user, password and host in {url}")
    return fault(f"the broker does not answer: {type(error).__name__}", f"start it, or correct {url}")


def _try(channel: Any, limit_s: float) -> None:
    """What API and workers do, on a queue that is gone with the connection: declare, publish with confirm, read. Raises what the
    transport does."""
    name = f"darkroom.doctor.{uuid4().hex}"
    channel.queue_declare(name, exclusive=True, auto_delete=True, durable=False)
    channel.basic_publish(
        channel.prepare_message(b""), exchange="", routing_key=name, confirm_timeout=limit_s
    )
    channel.basic_get(name, no_ack=True)


def _depth(connection: Any, name: str) -> Finding:
    try:
        depth = connection.channel().queue_declare(name, passive=True).message_count
    except connection.channel_errors:
        return ok(f"queue {name} is not there yet")
    if depth and name == REFUSED_QUEUE:
        return warn(
            f"{depth} messages on {name} were no jobs", "look at them, find who sends them, purge the queue"
        )
    if depth and name == DEAD_LETTER_QUEUE:
        return warn(
            f"{depth} messages wait on {name}", "an API process brings their jobs to an end: is one running?"
        )
    return ok(f"queue {name}: {depth} ready")

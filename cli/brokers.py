"""The broker checks of `darkroom doctor`.

The broker must be reachable, usable by this user, new enough, with queues as declared and no dead letters.
"""

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
"""The first version with at-least-once dead lettering: https://www.rabbitmq.com/docs/quorum-queues."""
TLS_MEND: Final = "check the dates of both certificates, the host names in the server's certificate, and the files that the URL names"


def broker(settings: BackendSettings, models: list[str]) -> Iterator[Finding]:
    """Checks the broker and the queues of `models`, and yields the findings as they come."""
    connection = publisher_connection(settings)
    alarms: list[str] = []
    try:
        connection.connect()
        if is_redis(settings.broker_url):
            yield warn("Redis is the broker", "use RabbitMQ in production: Redis does not confirm messages")
            return
        connection.connection.on_blocked = alarms.append
        version = str(connection.connection.server_properties.get("version", "0.0"))
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_RABBIT:
            yield fault(f"RabbitMQ {version} is too old", "use RabbitMQ 3.10 or newer")
        else:
            yield ok(f"RabbitMQ {version}")
        check_topology(settings, models)
        _try_out(connection.channel(), settings.publish_timeout_s)
        yield ok("queues can be declared, written to and read")
        for name in (*map(queue_name, models), DEAD_LETTER_QUEUE, REFUSED_QUEUE):
            yield _depth(connection, name)
    except QueueMisdeclared as error:
        yield fault(
            str(error),
            "drain and delete the queue, or set DARKROOM_QUEUE_MAX_LENGTH to the same value everywhere",
        )
    except (*connection.connection_errors, *connection.channel_errors, OSError) as error:
        yield judge_broker(error, alarms)
    finally:
        connection.release()


def judge_broker(error: BaseException, alarms: list[str]) -> Finding:
    """Says what an error of the broker means. `alarms` are the reasons why it blocks publishers. Pure."""
    url = "DARKROOM_BROKER_URL"
    if alarms:
        return fault(
            f"the broker accepts no messages: {alarms[-1]}",
            "make room on its disk or in its memory; `rabbitmq-diagnostics alarms` names the node",
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
        return fault(f"the broker's certificate, or the client's, is refused: {tls.reason or tls}", TLS_MEND)
    if (reason := refusal(error)) is not None:
        return fault(f"the broker {reason}: {error}", f"correct user, password and host in {url}")
    return fault(f"the broker does not answer: {type(error).__name__}", f"start it, or correct {url}")


def _try_out(channel: Any, limit_s: float) -> None:
    """Declares a queue, publishes to it with a confirm, and reads from it, as API and workers do.

    The queue ends with the connection. Raises the errors of the transport.
    """
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
        return ok(f"queue {name} does not exist yet")
    if depth and name == REFUSED_QUEUE:
        return warn(
            f"{depth} messages on {name} are not jobs", "look at them, find the sender, then purge the queue"
        )
    if depth and name == DEAD_LETTER_QUEUE:
        return warn(f"{depth} messages wait on {name}", "an API process ends their jobs: is one running?")
    return ok(f"queue {name}: {depth} ready")

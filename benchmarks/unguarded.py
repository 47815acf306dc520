"""`python -m benchmarks.unguarded api|worker`: the platform with its guards off, for `benchmarks.safety` to compare with. Not for use.

Publishes without confirms and without `mandatory`, on a classic queue that is not on disk; acks a message before its job has run;
lets any attempt finish a job.
"""

from __future__ import annotations

import sys
from typing import Any


def _publishing() -> None:
    from amqp.channel import Channel
    from kombu import Connection, Queue

    from broker import publisher, topology

    def connection(settings: Any) -> Connection:
        return Connection(settings.broker_url, connect_timeout=settings.publish_timeout_s, heartbeat=0)

    def queue(model: str, settings: Any) -> Queue:
        name = topology.queue_name(model)
        arguments = {"x-max-length": settings.queue_max_length}
        return Queue(name, exchange="", routing_key=name, durable=False, queue_arguments=arguments)

    real = Channel._basic_publish

    def publish(channel: Any, message: Any, *given: Any, **named: Any) -> Any:
        message.properties["delivery_mode"] = 1
        return real(channel, message, *given, **{**named, "mandatory": False})

    Channel._basic_publish = publish
    vars(publisher)["publisher_connection"] = connection
    vars(topology)["job_queue"] = queue


def _acking() -> None:
    from celery import Celery

    real = Celery.task

    def task(app: Any, *given: Any, **named: Any) -> Any:
        app.conf.task_acks_late = False
        return real(app, *given, **named)

    Celery.task = task


def _fencing() -> None:
    from store import scripts

    real, fence = (
        scripts.lua_source,
        "return job and job.status == 'running' and job.attempt == tostring(attempt)",
    )

    def source(name: str) -> str:
        text = real(name)
        if fence not in text:
            raise RuntimeError(
                "the fence is not where it was: this benchmark would compare a thing with itself"
            )
        return text.replace(fence, "return job")

    vars(scripts)["lua_source"] = source


def main() -> int:
    _publishing()
    _fencing()
    if sys.argv[1] == "api":
        from api.__main__ import main as run
    else:
        _acking()
        from worker.__main__ import main as run
    return run()


if __name__ == "__main__":
    sys.exit(main())

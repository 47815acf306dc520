"""Deliveries are held without a thread each, and answered as their futures say: Celery's real consumer on real brokers, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Queue

from broker.publisher import open_publisher
from broker.topology import dead_letter_queue, job_queue
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer
from contracts.jobs import JobMessage
from contracts.settings import BackendSettings, WorkerSettings
from tests.store.made import new

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DELIVERIES = 64
ENDS_S = 60.0
COMES_BACK_S = 10.0


def main(broker_url: str, model: str, held: int, breaks: bool = False, more: int = 0) -> None:
    """Holds that many deliveries, says with how many threads, then answers each as its tenant says; ends when all are answered. With
    `breaks` the consumer does not survive what is no job."""
    import os
    import signal
    import threading
    from concurrent.futures import Future
    from types import SimpleNamespace

    from celery.exceptions import Reject

    from worker.app import consume, create_app
    from worker.consumer import JobConsumer
    from worker.deliveries import Verdict
    from worker.receipt import Receipt

    settings = WorkerSettings(engine="fake", broker_url=broker_url, max_batch=DELIVERIES // 2)
    futures: list[tuple[str, Future[Any]]] = []
    threads: set[int] = set()
    ended: list[str] = []

    def answer() -> None:
        print(json.dumps({"threads": threading.active_count()}), flush=True)
        for tenant, future in futures[:held]:
            match tenant:
                case "ack":
                    future.set_result(Verdict.ACK)
                case "requeue":
                    future.set_result(Verdict.REQUEUE)
                case "cancel":
                    future.cancel()
                case "reject":
                    future.set_exception(Reject("no job", requeue=False))
                case _:
                    future.set_exception(RuntimeError("of our own code"))
        # What is given back comes anew while the consumer lives. Then the drain gives it back.
        again = held + more + sum(tenant in ("requeue", "cancel") for tenant, _ in futures[:held])
        limit = time.monotonic() + COMES_BACK_S
        while len(futures) < again and time.monotonic() < limit:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    def run(receipt: Receipt) -> Future[Any] | Verdict:
        threads.add(threading.get_ident())
        message = receipt.read()
        assert isinstance(message, JobMessage)
        if message.tenant == "ended":
            ended.append(message.job_id)
            return Verdict.ACK
        future: Future[Any] = Future()
        futures.append((message.tenant, future))
        if len(futures) == held:
            threading.Timer(0.2, answer).start()
        return future

    def drain() -> None:
        for _, future in futures if breaks else futures[held:]:
            future.cancel()

    class Breaking(JobConsumer):
        def _refuse(self, message: Any, reason: str) -> None:
            raise RuntimeError("of the consumer")

    runtime = SimpleNamespace(run=run, announce=lambda: None, drain=drain)
    app = create_app(settings, runtime, SimpleNamespace(name=model))  # type: ignore[arg-type]
    if breaks:
        app.conf.worker_consumer = Breaking
    code = 0
    with suppress(SystemExit):
        code = consume(app, settings, runtime)  # type: ignore[arg-type]
    print(
        json.dumps({"callers": len(threads), "held": len(futures), "ended": len(ended), "code": code}),
        flush=True,
    )


@pytest.fixture(params=["rabbitmq", "redis"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        yield server.url.replace("/0", "/7")
    else:
        broker: RabbitServer = request.getfixturevalue("rabbit_server")
        yield broker.url


def publish(url: str, model: str, tenants: list[str]) -> None:
    async def all_of_them() -> None:
        publisher = open_publisher(BackendSettings(broker_url=url))
        for tenant in tenants:
            job = new(model=model)
            message = JobMessage(
                job_id=job.id, tenant=tenant, key=job.key, request=job.request, created_at=1.0, deadline=2.0
            )
            await publisher.publish(message)
        await publisher.close()

    asyncio.run(all_of_them())


def queue_of(url: str, model: str) -> Queue:
    return job_queue(model, BackendSettings(broker_url=url))


def left(url: str, queue: Queue) -> list[str]:
    """The tenants of all that is on the queue, sorted."""
    found: list[str] = []
    with Connection(url) as connection, connection.SimpleQueue(queue, no_ack=True) as simple:
        while True:
            try:
                message = simple.get(timeout=1.0)
            except simple.Empty:
                return sorted(found)
            body = message.payload if isinstance(message.payload, list) else json.loads(message.body)
            found.append(body[0][0]["tenant"])


def held_by_a_consumer(
    url: str, model: str, held: int, breaks: bool = False, more: int = 0
) -> dict[str, Any]:
    program = f"from tests.worker.test_pool import main; main({url!r}, {model!r}, {held}, {breaks}, {more})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=ENDS_S, check=False
    )
    told: dict[str, Any] = {"unanswered": (done.stdout + done.stderr).count("delivery_unanswered")}
    for line in done.stdout.splitlines():
        if line.startswith(('{"threads"', '{"callers"')):
            told |= json.loads(line)
    assert "held" in told, done.stderr[-2000:]
    return told


def test_as_many_deliveries_as_the_broker_gives_are_held_without_a_thread_each(url: str) -> None:
    model = f"held-{time.time_ns()}"
    publish(url, model, ["ack"] * DELIVERIES + ["later"] * DELIVERIES)
    # As many come after them, the last of which the broker gives only once it has heard all the acks.
    told = held_by_a_consumer(url, model, DELIVERIES, more=DELIVERIES)
    # The main thread, the timer that counts them, and what libraries start.
    assert told["threads"] < 8
    assert told["callers"] == 1
    assert told["held"] == 2 * DELIVERIES
    assert left(url, queue_of(url, model)) == ["later"] * DELIVERIES, "all others were acked"


def test_a_delivery_is_answered_as_its_future_says(rabbit_server: RabbitServer) -> None:
    model = f"verdicts-{time.time_ns()}"
    url = rabbit_server.url
    left(url, dead_letter_queue())  # of other tests
    publish(url, model, ["ack", "requeue", "reject", "raise"] * 4)
    told = held_by_a_consumer(url, model, 16)
    assert told["callers"] == 1
    assert left(url, queue_of(url, model)) == ["requeue"] * 4
    assert left(url, dead_letter_queue()) == ["raise"] * 4 + ["reject"] * 4


def test_deliveries_that_are_answered_at_once_make_room_for_more(url: str) -> None:
    """More of them than the broker gives at a time come before the one that is held."""
    model = f"ended-{time.time_ns()}"
    publish(url, model, ["ended"] * (DELIVERIES + 1) + ["ack"])
    told = held_by_a_consumer(url, model, 1)
    assert (told["held"], told["ended"], told["unanswered"]) == (1, DELIVERIES + 1, 0)
    assert left(url, queue_of(url, model)) == []


def test_what_is_given_back_comes_again_while_the_consumer_lives(url: str) -> None:
    model = f"given-back-{time.time_ns()}"
    publish(url, model, ["requeue", "cancel"] * 2)
    told = held_by_a_consumer(url, model, 4)
    assert told["held"] == 8, "each came a second time before the connection ended"
    assert told["unanswered"] == 0
    assert left(url, queue_of(url, model)) == ["cancel"] * 2 + ["requeue"] * 2


def test_a_consumer_that_breaks_gives_back_and_says_so(rabbit_server: RabbitServer) -> None:
    model, url = f"breaks-{time.time_ns()}", rabbit_server.url
    publish(url, model, ["ack"])
    with Connection(url) as connection:
        connection.Producer().publish("no task", routing_key=queue_of(url, model).name)
    # More than come: the consumer ends by itself.
    told = held_by_a_consumer(url, model, 9, breaks=True)
    assert told["held"] == 1
    assert told["code"] != 0
    assert told["unanswered"] == 0

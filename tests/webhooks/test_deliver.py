"""One job's end, told: from the outbox over an attempt to the log. Real stores, receivers on loopback."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from cli.services.redis import RedisServer
from contracts.addresses import parse_networks
from contracts.jobs import NewJob, Webhook
from contracts.settings import WebhookSettings
from contracts.webhooks import EVENTS, Call, Delivery, DeliveryStatus, webhook_id
from duties.dispatch import Dispatcher
from store.stores import Stores
from telemetry import metrics
from tests.store.made import FAILURE, led, new, result
from tests.stores import StoreClock, opened_stores
from tests.webhooks.conftest import Receiver
from webhooks.caller import Caller
from webhooks.deliver import Deliverer
from webhooks.schedule import Pacer

pytestmark = pytest.mark.anyio

SETTINGS = WebhookSettings()
KEYS = itertools.count()


@dataclass
class Desk:
    stores: Stores
    clock: StoreClock
    deliverer: Deliverer
    queue: list[Call]
    dispatcher: Dispatcher[Call]

    async def ended(self, url: str, end: str = "succeeded") -> NewJob:
        key = f"{next(KEYS):064x}"
        job = new(key=key).model_copy(update={"webhook": Webhook(url=url, events=EVENTS)})
        lease = await led(self.stores.jobs, job)
        if end == "succeeded":
            await self.stores.jobs.succeed(lease, result())
        else:
            await self.stores.jobs.fail(lease, FAILURE)
        return job

    async def tick(self) -> int:
        """Dispatch what is due and make those attempts."""
        moved = await self.dispatcher.tick()
        while self.queue:
            await self.deliverer.run(self.queue.pop(0))
        return moved

    async def log(self, job: NewJob) -> Delivery:
        return await self.stores.webhooks.get("public", job.id)


@pytest.fixture
async def desk(anyio_backend: str, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Desk]:
    caller = Caller(parse_networks("127.0.0.1/32"), 2.0, 4)
    queue: list[Call] = []

    async def enqueue(calls: object) -> None:
        queue.extend(calls)  # type: ignore[arg-type]

    async with opened_stores(redis_server, tmp_path) as stores:
        clock = StoreClock(stores, redis_server.url)
        deliverer = Deliverer(
            stores.webhooks,
            caller,
            clock,
            Pacer(8),
            Pacer(16),
            2.0,
            SETTINGS.retry_delays_s,
            "https://darkroom.example/",
            lambda: 0.5,
        )
        yield Desk(
            stores,
            clock,
            deliverer,
            queue,
            Dispatcher(stores.webhooks, enqueue, "webhook_dispatch", metrics.WEBHOOKS_DUE),
        )
    caller.close()


async def test_a_success_is_told_once_and_verifies(desk: Desk, receiver: Receiver) -> None:
    job = await desk.ended(receiver.url)
    assert await desk.tick() == 1
    assert await desk.tick() == 0
    ((headers, body),) = receiver.requests
    (secret,) = await desk.stores.webhooks.secrets("public")
    event = Verifier(secret.value).verify(body, headers)
    assert event["type"] == "job.succeeded"
    assert event["data"]["id"] == job.id
    assert event["data"]["status"] == "succeeded"
    (image,) = event["data"]["images"]
    assert image["url"].startswith("https://darkroom.example/v1/images/")
    assert event["data"]["urls"]["self"] == f"https://darkroom.example/v1/jobs/{job.id}"
    assert headers["webhook-id"] == webhook_id(job.id)
    assert headers["content-type"] == "application/json"
    log = await desk.log(job)
    assert log.status is DeliveryStatus.DELIVERED
    assert [attempt.status_code for attempt in log.attempts] == [204]


async def test_a_failure_is_told_with_its_error(desk: Desk, receiver: Receiver) -> None:
    await desk.ended(receiver.url, "failed")
    await desk.tick()
    event = json.loads(receiver.requests[0][1])
    assert (event["type"], event["data"]["error"]["code"]) == ("job.failed", FAILURE.code)


async def test_every_retry_has_the_same_id_and_body_and_a_fresh_timestamp(
    desk: Desk, receiver: Receiver
) -> None:
    receiver.answers = [500, 302, 404, 204]
    job = await desk.ended(receiver.url)
    for delay_s in (0, 5, 30, 300):
        desk.clock.advance(delay_s - 0.5)
        assert await desk.tick() == 0 or delay_s == 0
        desk.clock.advance(0.6)
        await desk.tick()
    assert len(receiver.requests) == 4
    assert set(receiver.ids) == {webhook_id(job.id)}
    assert len({body for _, body in receiver.requests}) == 1
    assert len({headers["webhook-timestamp"] for headers, _ in receiver.requests}) > 1
    log = await desk.log(job)
    assert [attempt.status_code for attempt in log.attempts] == [500, 302, 404, 204]
    assert log.status is DeliveryStatus.DELIVERED


async def test_after_three_days_it_is_given_up(desk: Desk) -> None:
    job = await desk.ended("http://127.0.0.1:9/hook")
    while (await desk.log(job)).status is not DeliveryStatus.DELIVERED:
        await desk.tick()
        due_at = (await desk.log(job)).next_attempt_at
        if due_at is None:
            break
        desk.clock.advance(due_at - desk.clock.now())
    log = await desk.log(job)
    assert log.status is DeliveryStatus.FAILED
    assert len(log.attempts) == 11
    assert {attempt.error for attempt in log.attempts} == {"connection_failed"}
    assert log.attempts[-1].at - log.attempts[0].at <= 3 * 86_400


async def test_410_ends_it_and_all_that_is_owed_to_that_address(desk: Desk, receiver: Receiver) -> None:
    receiver.answers = [410]
    first, second = await desk.ended(receiver.url), await desk.ended(receiver.url)
    other = await desk.ended(f"{receiver.url}/other")
    await desk.tick()
    statuses = [(await desk.log(job)).status for job in (first, second, other)]
    assert statuses == [DeliveryStatus.DISABLED] * 3
    assert len(receiver.requests) == 2, "the second was spared; the other address answers for itself"
    (spared,) = [log for job in (first, second) if (log := await desk.log(job)).attempts[0].error]
    assert spared.attempts[0].error == "receiver_gone"


async def test_an_inner_address_fails_at_once(desk: Desk) -> None:
    job = await desk.ended("http://127.0.0.2:9/hook")
    await desk.tick()
    log = await desk.log(job)
    assert (log.status, log.attempts[0].error) == (DeliveryStatus.FAILED, "address_refused")


async def test_a_receiver_that_asks_for_time_is_given_it(desk: Desk, receiver: Receiver) -> None:
    receiver.answers = [(429, {"Retry-After": "120"}), 204]
    job = await desk.ended(receiver.url)
    await desk.tick()
    desk.clock.advance(100)
    assert await desk.tick() == 0
    desk.clock.advance(21)
    assert await desk.tick() == 1
    assert (await desk.log(job)).status is DeliveryStatus.DELIVERED


async def test_a_message_delivered_three_times_calls_once(desk: Desk, receiver: Receiver) -> None:
    await desk.ended(receiver.url)
    await desk.dispatcher.tick()
    for call in desk.queue * 3:
        await desk.deliverer.run(call)
    assert len(receiver.requests) == 1


async def test_a_tenant_with_many_slow_receivers_leaves_room_for_others(
    desk: Desk, receiver: Receiver
) -> None:
    for number in range(16):
        assert desk.deliverer.tenants.enter("public", number) is None
    job = await desk.ended(receiver.url)
    assert await desk.tick() == 1
    assert receiver.requests == []
    assert (await desk.log(job)).attempts == ()
    desk.deliverer.tenants.leave("public", 1.0)
    desk.clock.advance(10)
    assert await desk.tick() == 1
    assert len(receiver.requests) == 1


async def test_both_secrets_sign_while_one_is_rotated(desk: Desk, receiver: Receiver) -> None:
    (old,) = await desk.stores.webhooks.secrets("public")
    new_one, _ = await desk.stores.webhooks.rotate("public", 3600.0)
    await desk.ended(receiver.url)
    await desk.tick()
    ((headers, body),) = receiver.requests
    for secret in (old, new_one):
        Verifier(secret.value).verify(body, headers)
    desk.clock.advance(3601)
    assert [s.value for s in await desk.stores.webhooks.secrets("public")] == [new_one.value]


async def test_the_log_of_the_process_names_no_address(
    desk: Desk, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    await desk.ended(f"{receiver.url}?token=unmistakable")
    await desk.tick()
    out = capsys.readouterr()
    assert "unmistakable" not in out.out + out.err

"""The dispatcher on a real Redis, which a plain cancellation does not end every time: its client may swallow one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

from cli.services.redis import RedisServer
from contracts.ports.webhook_store import WebhookStore
from contracts.settings import BackendSettings
from contracts.webhooks import Call
from duties.dispatch import Dispatcher
from runtime.tasks import end
from store.stores import open_stores
from telemetry import metrics


async def enqueue(_: Sequence[Call]) -> None:
    raise AssertionError("Nothing is owed.")


def dispatcher(store: WebhookStore) -> Dispatcher[Call]:
    return Dispatcher(store, enqueue, "webhook_dispatch", metrics.WEBHOOKS_DUE)


def test_it_ends_at_whatever_moment_it_is_told_to(redis_server: RedisServer, tmp_path: Path) -> None:
    settings = BackendSettings(redis_url=redis_server.url, blob_dir=tmp_path)
    moments = random.Random(1)

    async def scenario() -> None:
        stores = open_stores(settings)
        try:
            # The first look at the layout is a task that all callers of the process share: it outlives the one that asked.
            await stores.webhooks.due()
            for _ in range(50):
                running = asyncio.create_task(dispatcher(stores.webhooks).run())
                await asyncio.sleep(moments.uniform(0.0, 0.02))
                async with asyncio.timeout(10):
                    (outcome,) = await end(running)
                assert isinstance(outcome, asyncio.CancelledError)
                assert asyncio.all_tasks() == {asyncio.current_task()}
        finally:
            await stores.close()

    asyncio.run(scenario())

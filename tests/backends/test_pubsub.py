"""What is said together on a channel is heard together."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio.client import PubSub

from backends.pubsub import messages
from backends.redis_client import connect
from cli.services.redis import RedisServer
from runtime.tasks import end

pytestmark = pytest.mark.anyio

SAID = [f"job_{number} running" for number in range(200)]


async def test_messages_that_come_together_cost_one_read(
    anyio_backend: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    real = PubSub.get_message

    async def get_message(pubsub: PubSub, *given: object, **named: object) -> object:
        nonlocal reads
        reads += 1
        return await real(pubsub, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(PubSub, "get_message", get_message)
    heard: list[str] = []
    listening, speaking = connect(redis_server.url, 5.0), connect(redis_server.url, 5.0)

    async def listen() -> None:
        async for message in messages(listening, ["together"], "a test", 5.0):
            heard.append(message)

    task = asyncio.create_task(listen())
    async with asyncio.timeout(20):
        # "once" is heard once the subscription is in force.
        while not await speaking.publish("together", "once"):
            await asyncio.sleep(0)
        # In one script, as jobs that are taken or ended together are told of.
        await speaking.eval(
            "for _, each in ipairs(ARGV) do redis.call('PUBLISH', KEYS[1], each) end", 1, "together", *SAID
        )
        while len(heard) <= len(SAID):
            await asyncio.sleep(0)
    await end(task)
    await listening.aclose()
    await speaking.aclose()
    assert heard == ["once", *SAID]
    assert reads < len(SAID) / 2


async def test_a_cut_among_messages_is_the_end(anyio_backend: str, redis_server: RedisServer) -> None:
    listening, speaking = connect(redis_server.url, 5.0), connect(redis_server.url, 5.0)
    heard: list[str] = []

    async def listen() -> None:
        async for message in messages(listening, ["cut"], "a test", 5.0):
            heard.append(message)

    task = asyncio.create_task(listen())
    async with asyncio.timeout(20):
        while not await speaking.publish("cut", "before"):
            await asyncio.sleep(0)
        pipeline = speaking.pipeline(transaction=True)
        pipeline.publish("cut", "last")
        pipeline.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await pipeline.execute()
        await task
    assert heard[0] == "before"
    await listening.aclose()
    await speaking.aclose()

"""How full Redis is, and the count of what tenants' records take, on one server and on a cluster."""

from __future__ import annotations

import pytest

from backends.redis_client import connect, disconnect
from runtime.clock import ManualClock
from store.memory_use import RedisMemoryUseStore, memory_in, memory_of
from tests.backends.servers import ClusterServers
from tests.store.conftest import World


def test_buffers_that_redis_does_not_count_are_not_counted() -> None:
    told = {"used_memory": 90, "mem_not_counted_for_evict": 40, "maxmemory": 100}
    assert memory_in(told).share == 0.5
    assert memory_in({"used_memory": 90}).share == 0.0


@pytest.mark.anyio
async def test_what_several_count_adds_up(world: World) -> None:
    lapse = 4_000_000_000
    counted = await world.stores.room.add({"acme": {lapse: 7}, "other": {}})
    assert (dict(counted["acme"]), dict(counted["other"])) == ({lapse: 7}, {})
    assert await world.stores.room.add({"acme": {lapse: 5, lapse + 9: 1}}) == {
        "acme": {lapse: 12, lapse + 9: 1}
    }
    assert await world.stores.room.add({"acme": {}}) == {"acme": {lapse: 12, lapse + 9: 1}}


@pytest.mark.anyio
async def test_of_a_cluster_every_node_is_looked_at(redis_cluster: ClusterServers) -> None:
    client = connect(redis_cluster.url, 5.0)
    assert len(await memory_of(client, 5.0)) == 3
    store = RedisMemoryUseStore(client, ManualClock(), 5.0)
    lapse = int(ManualClock().now()) + 1000
    counted = await store.add({"acme": {lapse: 7}, "other": {}})
    assert (counted["acme"][lapse], counted["other"]) == (7, {})
    assert (await store.add({"acme": {lapse: 5}}))["acme"][lapse] == 12
    await disconnect(client)

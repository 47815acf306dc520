"""docs/haproxy.cfg before a real API: what it keeps from it, while a good client is answered."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from benchmarks.lib.front import proxied as haproxy
from contracts.models import WorkerInfo
from contracts.settings import BackendSettings
from store.stores import open_stores
from tests.integration.conftest import Deploy, Stack
from tests.integration.test_connections import (
    BODY,
    HEAD,
    LARGE,
    PATIENCE_S,
    clients,
    connected,
    everything,
    many_open_files,
    open_connections,
    slowest,
    until,
)
from tests.store.test_others import spec

__all__ = ["many_open_files"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PER_ADDRESS = 60
STRANGER = "127.0.0.2"
TIMEOUT_S = 1


@dataclass
class Front:
    """The proxy as its clients see it, and the API behind it."""

    front: Stack
    api: Stack


@pytest.fixture
def proxied(deploy: Deploy, tmp_path: Path) -> Iterator[Front]:
    api = deploy(workers=0, rabbitmq=False, DARKROOM_HEADER_TIMEOUT_S="120", DARKROOM_ALLOW_ANONYMOUS="true")
    settings = {
        "PROXY_MAX_CONNECTIONS": "400",
        "PROXY_CLIENT_TIMEOUT": f"{2 * TIMEOUT_S}s",
        "PROXY_REQUEST_TIMEOUT": f"{TIMEOUT_S}s",
        "PROXY_CONNECTIONS_PER_ADDRESS": str(PER_ADDRESS),
    }
    folder = tmp_path / "haproxy"
    with haproxy(folder, api.url.removeprefix("http://"), **settings) as port:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=60.0) as http:
            yield Front(Stack(url, http, api.environ, folder, api.redis, None), api)


def ended(sockets: list[socket.socket]) -> bool:
    """Whether the server has closed every one of them; what it said is thrown away."""
    for client in sockets:
        client.settimeout(10.0)
        everything(client)
    return True


def closed_unheard(stack: Stack) -> bool:
    """Whether a stranger's new connection is closed before it has said anything."""
    try:
        with connected(stack, STRANGER) as refused:
            return everything(refused) == b""
    except ConnectionResetError:
        return True


def test_slow_heads_and_slow_bodies_end_before_the_api_sees_them(proxied: Front) -> None:
    for said in (b"", HEAD, BODY):
        with connected(proxied.front, STRANGER) as client:
            client.settimeout(10.0)
            client.sendall(said)
            assert everything(client)[:12] in (b"", b"HTTP/1.1 408"), said
    # Its own connections: those of the check and of good clients.
    assert open_connections(proxied.api) < 5


def test_a_client_that_never_reads_is_cut_off(proxied: Front) -> None:
    with clients(proxied.front, 5, LARGE * 150, STRANGER):
        until(lambda: open_connections(proxied.api) >= 5)
        until(lambda: open_connections(proxied.api) < 5)
    assert httpx.get(f"{proxied.front.url}/healthz").status_code == 200


def test_one_address_has_so_many_connections_and_others_are_answered(proxied: Front) -> None:
    before = slowest(proxied.front, 100)
    while True:
        began = time.monotonic()
        with clients(proxied.front, PER_ADDRESS, source=STRANGER):
            # The next is closed at once, those of others are not.
            closed, took_s = closed_unheard(proxied.front), time.monotonic() - began
            during = slowest(proxied.front, 100)
        if took_s < TIMEOUT_S:
            # On a busy machine the first of them may be over before the last is open, and then there is room for one more.
            break
    assert closed
    assert during <= 3 * before + 0.1
    for _ in range(3):
        with clients(proxied.front, PER_ADDRESS, source=STRANGER) as idle:
            assert httpx.get(f"{proxied.front.url}/healthz").status_code == 200
            assert ended(idle)


@pytest.mark.anyio
async def test_a_held_request_outlives_the_clients_timeout(proxied: Front) -> None:
    """The timers are for clients: a job that takes its time is waited for."""
    stores = open_stores(
        BackendSettings(redis_url=proxied.api.redis.url, blob_dir=proxied.api.folder / "blobs")
    )
    try:
        await stores.models.announce(spec("m"), WorkerInfo(id="w", model="m", started_at=1.0))
        wait_s = 4 * TIMEOUT_S
        async with httpx.AsyncClient(base_url=proxied.front.url, timeout=60.0) as http:
            body = {"prompt": "a red apple", "num_inference_steps": 4}
            async with asyncio.timeout(PATIENCE_S):
                # The API looks for models once a while.
                while (submitted := await http.post("/v1/jobs", json=body)).status_code != 202:
                    await asyncio.sleep(0.1)
            began = time.monotonic()
            held = await http.get(submitted.json()["urls"]["self"], headers={"Prefer": f"wait={wait_s}"})
    finally:
        await stores.close()
    assert (held.status_code, held.json()["status"]) == (200, "queued")
    assert time.monotonic() - began >= wait_s


def test_metrics_stay_inside(proxied: Front) -> None:
    assert proxied.front.http.get("/metrics").status_code == 404
    assert proxied.api.http.get("/metrics").status_code == 200

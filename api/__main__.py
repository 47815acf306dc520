"""`python -m api`: the API as a process, under Granian, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Final

from fastapi import FastAPI
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from api.app import create_app
from api.services import Services
from broker.dead_letter_queue import open_dead_letters
from broker.publisher import open_publisher
from broker.topology import check_topology
from cache.stores import Stores, open_stores
from contracts.clock import SystemClock
from contracts.errors import QueueMisdeclared, SettingsError, StoreUnavailable
from contracts.settings import ApiSettings, is_loopback
from contracts.tenancy import KeyStore
from telemetry import logs, metrics, tracing

MAX_CONCURRENT: Final = 4096
"""Requests inside the application at once; above `wait.MAX_WAITERS`, so that held ones never block the others."""
BACKLOG: Final = 1024
HEADER_TIMEOUT_MS: Final = 10_000
LEAVE_S: Final = 0.5
"""Time for clients to hear, with their next answer, that their connection ends: one that is closed just as a request is sent on it
looks like a fault."""


def build(settings: ApiSettings) -> FastAPI:
    """The application on the services of the settings."""
    stores = open_stores(settings, hot_results=settings.hot_results, hot_ttl_s=settings.hot_result_ttl_s)
    letters = open_dead_letters(settings)
    return create_app(settings, stores, open_publisher(settings), SystemClock(), letters)


async def refuse_to_be_open(settings: ApiSettings, keys: KeyStore) -> None:
    """Raises `SettingsError` where others could reach a server that nobody has a key to.

    While the store is away it is not known whether there are keys; until there are, the server answers 401.
    """
    if is_loopback(settings.host) or settings.allow_anonymous or settings.admin_key is not None:
        return
    try:
        known = await keys.list()
    except StoreUnavailable:
        return
    if all(key.revoked_at is not None for key in known):
        raise SettingsError(
            f"DARKROOM_HOST is {settings.host}, where others can reach it, and there is no API key. Give it a first "
            "one with DARKROOM_ADMIN_KEY (`darkroom keys new` makes one), or serve everybody with "
            "DARKROOM_ALLOW_ANONYMOUS=true."
        )


async def serve(app: FastAPI, settings: ApiSettings) -> bool:
    """Serve until a signal. Answers whether it was one that ended it, and not a fault. Raises `SettingsError`."""
    services: Services = app.state.services
    try:
        await refuse_to_be_open(settings, services.stores.keys)
        await check_queues(settings, services.stores)
    except (SettingsError, QueueMisdeclared):
        await services.stores.close()
        raise
    # In this process rather than in Granian's worker processes: a third of the memory, and one process to supervise.
    server = Server(
        app,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=BACKLOG,
        backpressure=MAX_CONCURRENT,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIMEOUT_MS),
        log_enabled=False,
    )
    end: Callable[[], None] = server.stop
    asked = False

    loop = asyncio.get_running_loop()

    def stop() -> None:
        nonlocal asked
        if asked:
            end()
            return
        asked = True
        services.let_go()
        loop.call_later(LEAVE_S, end)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await server.serve()
    return asked


async def check_queues(settings: ApiSettings, stores: Stores) -> None:
    """Raises `QueueMisdeclared` for a queue of a model that is served now. A service that is away is met later."""
    try:
        models = [served.spec.name for served in await stores.models.models() if served.workers]
    except StoreUnavailable:
        models = []
    await asyncio.to_thread(check_topology, settings, models)


def main() -> int:
    try:
        settings = ApiSettings.from_env()
        logs.configure(settings, service="api")
        tracing.configure(settings, "api")
        metrics.BUILD.labels("api", version("darkroom")).set(1)
        return 0 if asyncio.run(serve(build(settings), settings)) else 1
    except (SettingsError, QueueMisdeclared) as error:
        sys.stderr.write(f"darkroom api: {error}\n")
        return 2
    finally:
        tracing.shutdown()


if __name__ == "__main__":
    sys.exit(main())

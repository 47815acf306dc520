"""`python -m api`: the API as a process, under Granian, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from typing import Final

from fastapi import FastAPI
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from api.app import create_app
from api.services import Services
from broker.publisher import open_publisher
from cache.stores import open_stores
from contracts.clock import SystemClock
from contracts.errors import SettingsError
from contracts.settings import ApiSettings
from telemetry import logs

MAX_CONCURRENT: Final = 4096
"""Requests inside the application at once; above `wait.MAX_WAITERS`, so that held ones never block the others."""
BACKLOG: Final = 1024
HEADER_TIMEOUT_MS: Final = 10_000


def build(settings: ApiSettings) -> FastAPI:
    """The application on the services of the settings."""
    stores = open_stores(settings, hot_results=settings.hot_results, hot_ttl_s=settings.hot_result_ttl_s)
    return create_app(settings, stores, open_publisher(settings), SystemClock())


async def serve(app: FastAPI, settings: ApiSettings) -> bool:
    """Serve until a signal. Answers whether it was one that ended it, and not a fault."""
    services: Services = app.state.services
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

    def stop() -> None:
        nonlocal asked
        asked = True
        services.let_go()
        end()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await server.serve()
    return asked


def main() -> int:
    try:
        settings = ApiSettings.from_env()
    except SettingsError as error:
        sys.stderr.write(f"darkroom api: {error}\n")
        return 2
    logs.configure(settings, service="api")
    return 0 if asyncio.run(serve(build(settings), settings)) else 1


if __name__ == "__main__":
    sys.exit(main())

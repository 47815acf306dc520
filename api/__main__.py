"""`python -m api`: the API as a process, under Granian, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Final

from fastapi import FastAPI

from api import garbage
from api.app import create_app
from api.connections import ConnectionGuard, check_open_files
from api.moderation import opened
from api.services import Services
from backends.http_server import HttpServer
from broker.dead_letter_queue import open_dead_letters
from broker.publisher import open_publisher
from broker.topology import check_topology
from contracts import exit_codes
from contracts.errors import QueueMisdeclared, SettingsError, StoreUnavailable
from contracts.ports.key_store import KeyStore
from contracts.settings import ApiSettings, is_loopback
from runtime.clock import SystemClock
from runtime.listening import BACKLOG, listen
from runtime.tasks import end as end_tasks
from store.layout import require_layout
from store.stores import Stores, open_stores
from telemetry import logs, metrics, tracing

LEAVE_S: Final = 0.5
"""Seconds between a signal and the end. Clients learn from their next answer that the connection
ends. To a client, a connection that closes just as it sends a request looks like a fault."""

log = logs.get_logger("api")


def build(settings: ApiSettings) -> FastAPI:
    """The application, with the services that the settings name. Raises `SettingsError`."""
    policy = opened(settings)
    stores = open_stores(
        settings,
        hot_results=settings.hot_results,
        hot_ttl_s=settings.hot_result_ttl_s,
        log_key=settings.moderation_log_key,
    )
    letters = open_dead_letters(settings)
    return create_app(settings, stores, open_publisher(settings), SystemClock(), letters, policy)


async def refuse_to_be_open(settings: ApiSettings, keys: KeyStore) -> None:
    """Raises `SettingsError` if other machines can reach this server and no API key exists.

    While the store is unavailable, it is not known whether keys exist. The server starts then, and
    answers 401 until there are keys.
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
    """Serve until a signal.

    Returns whether a signal ended it; False means a fault. Raises `SettingsError`, also for a port
    that is in use, and `QueueMisdeclared`.
    """
    services: Services = app.state.services
    listener = None
    try:
        # Listen first. Clients that connect now get their answers once the other checks have passed.
        listener = listen(settings.host, settings.port, "DARKROOM_PORT", shared=settings.share_port)
        await require_layout(settings)
        await refuse_to_be_open(settings, services.stores.keys)
        await check_queues(settings, services.stores)
    except (SettingsError, QueueMisdeclared):
        if listener is not None:
            listener.close()
        await services.stores.close()
        raise
    port = listener.getsockname()[1]
    log.info("listening", host=settings.host, port=port)
    check_open_files(settings.max_connections)
    server = HttpServer(
        app,
        listener,
        BACKLOG,
        max_connections=settings.max_connections,
        header_timeout_s=settings.header_timeout_s,
        max_header_bytes=settings.max_header_bytes,
        write_timeout_s=settings.write_timeout_s,
    )
    end: Callable[[], None] = server.stop
    stopping = False

    loop = asyncio.get_running_loop()

    def stop() -> None:
        nonlocal stopping
        if stopping:
            end()
            return
        stopping = True
        services.let_go()
        loop.call_later(LEAVE_S, end)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    guards = []
    if settings.max_connections_per_address is not None:
        guard = ConnectionGuard(port, settings.max_connections_per_address)
        guards.append(asyncio.create_task(guard.run(), name="connection guard"))
    garbage.settle()
    try:
        await server.serve()
    finally:
        await end_tasks(*guards)
    return stopping


async def check_queues(settings: ApiSettings, stores: Stores) -> None:
    """Raises `QueueMisdeclared` if a queue of a served model has other properties than ours.

    Services that are unavailable are ignored here.
    """
    try:
        models = [served.spec.name for served in (await stores.models.models()).models if served.workers]
    except StoreUnavailable:
        models = []
    await asyncio.to_thread(check_topology, settings, models)


def main() -> int:
    """Run the process; returns its exit status (`contracts.exit_codes`)."""
    try:
        settings = ApiSettings.from_env()
        logs.configure(settings, service="api")
        tracing.configure(settings, "api")
        metrics.BUILD.labels("api", version("darkroom")).set(1)
        return exit_codes.ENDED if asyncio.run(serve(build(settings), settings)) else exit_codes.FAILED
    except (SettingsError, QueueMisdeclared) as error:
        sys.stderr.write(f"darkroom api: {error}\n")
        return exit_codes.UNUSABLE
    finally:
        tracing.shutdown()


if __name__ == "__main__":
    sys.exit(main())

"""`python -m webhooks`: delivers webhooks until SIGTERM or SIGINT. Any number of these processes may run."""

from __future__ import annotations

import asyncio
import sys
import threading
from importlib.metadata import version

from broker.topology import webhook_queue
from contracts import exit_codes
from contracts.addresses import parse_networks
from contracts.errors import SettingsError, StoreUnavailable
from contracts.settings import WebhookSettings
from contracts.webhooks import Call
from duties.dispatch import Dispatcher
from duties.process import consume
from duties.queue import DutyQueue
from runtime.clock import SystemClock
from runtime.leaving import leave_at_sigterm
from runtime.tasks import end
from store.layout import require_layout
from store.stores import Stores, open_stores
from telemetry import logs, metrics, series, tracing
from telemetry.server import OperationServer
from webhooks.caller import Caller
from webhooks.deliver import Deliverer
from webhooks.schedule import Pacer

log = logs.get_logger("webhooks")


class Runtime:
    """An event loop on its own thread. Celery's threads pass their calls to it. Call `start`, then `stop`."""

    def __init__(self, settings: WebhookSettings) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="runtime", daemon=True)
        self._stores: Stores = open_stores(settings)
        self._caller = Caller(
            parse_networks(settings.webhook_allow_networks),
            settings.webhook_timeout_s,
            settings.webhook_concurrency,
        )
        self._deliverer = Deliverer(
            self._stores.webhooks,
            self._caller,
            SystemClock(),
            Pacer(settings.webhook_per_receiver),
            Pacer(max(1, settings.webhook_concurrency // 2)),
            settings.webhook_timeout_s,
            settings.retry_delays_s,
            settings.public_url,
        )
        # Acked at once: a slow receiver holds no message.
        self.queue = DutyQueue(settings, "webhook", webhook_queue(settings), Call, self.run, late=False)
        self._dispatching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the thread, and the dispatcher on it."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    def unready(self) -> str | None:
        """Why this process delivers nothing now, or None. For a readiness probe; callable from any thread."""
        dispatching = self._dispatching
        return "It starts, or it ends." if dispatching is None or dispatching.done() else None

    def fault(self) -> str | None:
        """Why this process should be restarted, or None. For a liveness probe; callable from any thread."""
        dispatching = self._dispatching
        if dispatching is not None and dispatching.done() and not dispatching.cancelled():
            return "The dispatcher has ended."
        return None

    def run(self, call: Call) -> None:
        """Make one attempt; callable from any thread.

        If the store is unavailable, the call falls due again.
        """
        try:
            asyncio.run_coroutine_threadsafe(self._deliverer.run(call), self._loop).result()
        except StoreUnavailable as error:
            metrics.REPAIRED.labels("webhook").inc()
            log.warning("webhook_put_off", job_id=call.job_id, code=error.code)

    def stop(self) -> None:
        """End the dispatcher, close the stores and connections, and end the thread."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        dispatcher = Dispatcher(
            self._stores.webhooks, self.queue.put, "webhook_dispatch", metrics.WEBHOOKS_DUE
        )
        self._dispatching = asyncio.create_task(dispatcher.run(), name="dispatcher")
        self._dispatching.add_done_callback(_dispatcher_ended)

    async def _stop(self) -> None:
        if self._dispatching is not None:
            await end(self._dispatching)
        self._caller.close()
        await self._stores.close()


def _dispatcher_ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        log.error("dispatcher_ended", error=type(task.exception()).__name__)


def main() -> int:
    """Run the process; returns its exit status (`contracts.exit_codes`)."""
    leave_at_sigterm()
    try:
        settings = WebhookSettings.from_env()
        asyncio.run(require_layout(settings))
    except SettingsError as error:
        sys.stderr.write(f"darkroom webhooks: {error}\n")
        return exit_codes.UNUSABLE
    logs.configure(settings, service="webhooks")
    tracing.configure(settings, "webhooks")
    metrics.BUILD.labels("webhooks", version("darkroom")).set(1)
    series.begin_webhooks()
    runtime = Runtime(settings)
    if settings.metrics_port:
        try:
            OperationServer(settings.metrics_port, runtime.fault, runtime.unready).start()
        except SettingsError as error:
            sys.stderr.write(f"darkroom webhooks: {error}\n")
            return exit_codes.UNUSABLE
    runtime.start()
    log.info("webhooks_ready")
    return consume(runtime, "webhooks", settings.webhook_concurrency, settings.log_level)


if __name__ == "__main__":
    sys.exit(main())

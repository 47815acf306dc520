"""`python -m second_look`: lets a model look at held images until SIGTERM or SIGINT. Any number of these
processes may run."""

from __future__ import annotations

import asyncio
import sys
import threading
from importlib.metadata import version

from broker.topology import second_look_queue
from contracts import exit_codes
from contracts.errors import SettingsError, UnavailableError
from contracts.moderation_settings import SecondLookSettings
from contracts.second_look import LookCall
from duties.dispatch import Dispatcher
from duties.process import consume
from duties.queue import DutyQueue
from moderation.carrying import Carrying
from moderation.live import LivePolicy
from moderation.policy import InvalidPolicy
from moderation.reviewing import Reviewing
from runtime.clock import SystemClock
from runtime.leaving import leave_at_sigterm
from runtime.tasks import end
from second_look.endpoint import Endpoint, checked
from second_look.looker import Looker
from second_look.owed import OwedLooks
from store.layout import require_layout
from store.stores import open_stores
from telemetry import logs, metrics, series, tracing
from telemetry.server import OperationServer

log = logs.get_logger("second_look")


class Runtime:
    """An event loop on its own thread. Celery's threads pass their calls to it. Call `start`, then `stop`."""

    def __init__(self, settings: SecondLookSettings, policy: LivePolicy[None]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="runtime", daemon=True)
        self._policy = policy
        stores = self._stores = open_stores(settings, log_key=settings.moderation_log_key)
        clock = SystemClock()
        carrying = Carrying(stores, stores.moderation_log, clock, settings.review_undo_s)
        reviewing = Reviewing(
            stores.reviews,
            carrying,
            stores.moderation_log,
            clock,
            reviewers=settings.reviewers,
            undo_s=settings.review_undo_s,
        )
        self._endpoint = Endpoint()
        self._looker = Looker(
            stores.looks, stores.reviews, stores.blobs, reviewing, policy, self._endpoint, clock
        )
        # Acked at once: a slow model holds no message, and the outbox repeats what is lost.
        self.queue = DutyQueue(
            settings, "second_look", second_look_queue(settings), LookCall, self.run, late=False
        )
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the thread, and on it the dispatcher and the look at the policy."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    def unready(self) -> str | None:
        """Why this process asks no model now, or None. For a readiness probe; callable from any thread."""
        ended = not self._tasks or any(task.done() for task in self._tasks)
        return "It starts, or it ends." if ended else None

    def fault(self) -> str | None:
        """Why this process should be restarted, or None. For a liveness probe; callable from any thread."""
        faulty = [task for task in self._tasks if task.done() and not task.cancelled()]
        return f"The {faulty[0].get_name()} has ended." if faulty else None

    def run(self, call: LookCall) -> None:
        """Make one attempt; callable from any thread.

        If a store is unavailable, the call falls due again.
        """
        try:
            asyncio.run_coroutine_threadsafe(self._looker.run(call), self._loop).result()
        except UnavailableError as error:
            metrics.REPAIRED.labels("second_look").inc()
            log.warning("second_look_put_off", image=call.name, code=error.code)

    def stop(self) -> None:
        """End the tasks, close the stores and connections, and end the thread."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        outbox = OwedLooks(self._stores.looks, lambda: self._looker.patience_s)
        dispatcher = Dispatcher(outbox, self.queue.put, "second_look_dispatch", metrics.SECOND_LOOKS_DUE)
        for name, work in (("dispatcher", dispatcher.run()), ("policy", self._policy.run())):
            task = asyncio.create_task(work, name=name)
            task.add_done_callback(_ended)
            self._tasks.append(task)

    async def _stop(self) -> None:
        for task in self._tasks:
            await end(task)
        await self._endpoint.close()
        await self._stores.close()


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        log.error("task_ended", task=task.get_name(), error=type(task.exception()).__name__)


def opened(settings: SecondLookSettings) -> LivePolicy[None]:
    """The policy of the settings. Raises `SettingsError` if there is none, or it cannot be used."""
    if settings.moderation is None:
        raise SettingsError("DARKROOM_MODERATION: a second look needs a policy")
    try:
        policy = LivePolicy[None].opened(settings.moderation, checked)
    except InvalidPolicy as error:
        raise SettingsError(f"DARKROOM_MODERATION: {error}") from None
    if policy.now.policy.second_look is None:
        log.warning("no_second_look", policy=policy.now.policy.title)
    return policy


def main() -> int:
    """Run the process; returns its exit status (`contracts.exit_codes`)."""
    leave_at_sigterm()
    try:
        settings = SecondLookSettings.from_env()
        logs.configure(settings, service="second_look")
        policy = opened(settings)
        asyncio.run(require_layout(settings))
    except SettingsError as error:
        sys.stderr.write(f"darkroom second_look: {error}\n")
        return exit_codes.UNUSABLE
    tracing.configure(settings, "second_look")
    metrics.BUILD.labels("second_look", version("darkroom")).set(1)
    series.begin_second_look()
    runtime = Runtime(settings, policy)
    if settings.metrics_port:
        try:
            OperationServer(settings.metrics_port, runtime.fault, runtime.unready).start()
        except SettingsError as error:
            sys.stderr.write(f"darkroom second_look: {error}\n")
            return exit_codes.UNUSABLE
    runtime.start()
    log.info("second_look_ready")
    return consume(runtime, "second_look", settings.second_look_concurrency, settings.log_level)


if __name__ == "__main__":
    sys.exit(main())

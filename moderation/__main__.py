"""`python -m moderation`: reads the meaning of prompts for the API, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Final

from backends.http_server import HttpServer
from contracts import exit_codes
from contracts.errors import SettingsError
from contracts.moderation_settings import ModerationSettings
from moderation.embedding import MiniLm, ModelMissing
from moderation.heads import Heads
from moderation.live import LivePolicy
from moderation.meaning import Meaning
from moderation.policy import InvalidPolicy, Policy
from moderation.service import create_app
from runtime.listening import BACKLOG, listen
from runtime.tasks import end
from telemetry import logs, metrics, tracing
from telemetry.server import OperationServer

MAX_CONNECTIONS: Final = 512
HEADER_TIMEOUT_S: Final = 300.0
"""The API keeps its connections open between prompts."""
MAX_HEADER_BYTES: Final = 16_384
WRITE_TIMEOUT_S: Final = 30.0

log = logs.get_logger("moderation")


def opened(settings: ModerationSettings, model: MiniLm) -> LivePolicy[Heads]:
    """The policy of the settings, with its heads. Raises `SettingsError`."""
    if settings.moderation is None:
        raise SettingsError("DARKROOM_MODERATION names no policy: this process has nothing to do")

    def compile_(policy: Policy) -> Heads:
        return Heads(policy, model.texts)

    try:
        return LivePolicy.opened(settings.moderation, compile_)
    except InvalidPolicy as error:
        raise SettingsError(f"DARKROOM_MODERATION: {error}") from None


async def serve(settings: ModerationSettings) -> bool:
    """Serve until a signal; returns whether a signal ended it. Raises `SettingsError`."""
    listener = listen(settings.moderation_host, settings.moderation_port, "DARKROOM_MODERATION_PORT")
    try:
        model = MiniLm()
        meaning = Meaning(model, opened(settings, model))
    except ModelMissing as error:
        listener.close()
        raise SettingsError(str(error)) from None
    except SettingsError:
        listener.close()
        raise
    await meaning.look(["a red apple"])  # the first run is slow
    server = HttpServer(
        create_app(meaning, settings.moderation_token),
        listener,
        BACKLOG,
        max_connections=MAX_CONNECTIONS,
        header_timeout_s=HEADER_TIMEOUT_S,
        max_header_bytes=MAX_HEADER_BYTES,
        write_timeout_s=WRITE_TIMEOUT_S,
    )
    end_serving: Callable[[], None] = server.stop
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        end_serving()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    looking = asyncio.create_task(meaning.live.run(), name="policy")
    if settings.metrics_port:
        OperationServer(settings.metrics_port, lambda: None, lambda: None).start()
    log.info("moderation_ready", host=settings.moderation_host, port=listener.getsockname()[1])
    try:
        await server.serve()
    finally:
        await end(looking)
        meaning.close()
    return stopped


def main() -> int:
    """Run the process; returns its exit status (`contracts.exit_codes`)."""
    try:
        settings = ModerationSettings.from_env()
        logs.configure(settings, service="moderation")
        tracing.configure(settings, "moderation")
        metrics.BUILD.labels("moderation", version("darkroom")).set(1)
        return exit_codes.ENDED if asyncio.run(serve(settings)) else exit_codes.FAILED
    except SettingsError as error:
        sys.stderr.write(f"darkroom moderation: {error}\n")
        return exit_codes.UNUSABLE
    finally:
        tracing.shutdown()


if __name__ == "__main__":
    sys.exit(main())

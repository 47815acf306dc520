"""The embedded platform: API, workers, webhooks, search, moderation, second looks and, if no URL is set, a Redis, as child processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cli import record
from cli.children import Child, Report
from cli.migrate import migrated
from cli.record import AlreadyRunning
from cli.services import process
from cli.services.process import ServiceError
from cli.services.redis import RedisServer
from client import Client
from contracts.errors import SettingsError, StoreUnavailable
from contracts.model_source import local_folder
from contracts.search_settings import SearchSettings
from contracts.settings import ApiSettings, BackendSettings, WebhookSettings, WorkerSettings
from moderation.policy import InvalidPolicy, Policy
from moderation.policy import read as read_policy
from runtime.listening import is_free, listen
from store.migrating import MigrationRefused

READY_S: Final = 720.0
"""A worker may load its model for `load_timeout_s` (600 by default). Its imports come before that."""
POLL_S: Final = 0.1
NEWS_S: Final = 10.0
"""Seconds between messages while a model loads."""
BROKER_DATABASE: Final = "/1"
EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what to connect to
"""The address to connect to, for each address that means all interfaces."""
SEARCH: Final = "search"
"""The name of the process that searches."""
MEANING: Final = "moderation"
"""The name of the process that reads the meaning of prompts."""
SECOND_LOOK: Final = "second_look"
"""The name of the process that lets a model look at held images."""
EMBEDDED_CLIP: Final = "models/emoji-clip"
_PING: Final = b"GET /healthz HTTP/1.0\r\n\r\n"


@dataclass(slots=True)
class Platform:
    """A running platform. Call `check` from time to time, and `stop` at the end."""

    url: str
    folder: Path
    model: str
    """The value of the setting."""
    children: list[Child] = field(default_factory=list)
    redis: RedisServer | None = None
    key: str = ""
    """The API key for the platform's own requests; empty if none is needed."""

    def wait_ready(self, report: Report = lambda _: None) -> None:
        """Waits until the platform can run a job, and reports each stage with `report`.

        Raises `ServiceError` with the reason if a process fails or `READY_S` is over, and
        `Unusable` if a process cannot run with its settings.
        """
        begun = news_at = time.monotonic()
        client = Client(self.url, api_key=self.key)
        answers = False
        try:
            while not client.ready():
                now = time.monotonic()
                if now > begun + READY_S:
                    raise ServiceError(f"Not ready within {READY_S:g} s; see {self.folder}.")
                self.check(report)
                if not answers and self._answers():
                    answers, news_at = True, now
                    report(f"The API answers ({now - begun:.1f} s). Loading {self.model} ...")
                elif now > news_at + NEWS_S:
                    news_at = now
                    stage = f"Loading {self.model}" if answers else "Waiting for the API"
                    report(f"{stage} ... {now - begun:.0f} s (logs in {self.folder})")
                time.sleep(POLL_S)
        finally:
            client.close()

    def check(self, report: Report = lambda _: None) -> None:
        """Restarts processes that have ended, and reports that with `report`.

        Raises `ServiceError` for a process that keeps ending, and `Unusable` for one that cannot
        run with its settings. The search is no such process: without it, pictures are drawn all the same.
        """
        if self.redis is not None and not self.redis.alive():
            self.redis.start()
        for child in self.children:
            try:
                child.check(report)
            except ServiceError as error:
                if child.name != SEARCH:
                    raise
                child.process = None
                report(f"{error}\nThe rest goes on without a search. Its log: {child.log}")

    def start_search(self) -> None:
        """Starts the process that searches, if the platform has one and it does not run."""
        for child in self.children:
            if child.name == SEARCH and child.process is None:
                child.start()

    def stop(self) -> None:
        """Stops all processes.

        The workers stop before the API and Redis, so they can hand over their jobs.
        """
        for child in reversed(self.children):
            child.stop(timeout_s=40.0)
        if self.redis is not None:
            self.redis.stop()

    def _answers(self) -> bool:
        return process.answers(int(self.url.rpartition(":")[2]), _PING, b"HTTP/1.")


@contextlib.contextmanager
def started(
    folder: Path,
    workers: int = 1,
    environ: Mapping[str, str] | None = None,
    *,
    webhooks: bool = True,
    search: bool = False,
    search_later: bool = False,
) -> Iterator[Platform]:
    """Starts a platform with its data and logs in `folder`, yields it, and stops it at the end.

    Settings come from `environ`; None: from this process. `webhooks`: also start the process that
    delivers webhooks. `search`: also the one that searches, with the embedded CLIP if the settings name
    none; with `search_later` it does not run before `Platform.start_search`. Raises `SettingsError`
    before anything starts, also for a port in use and a missing model. Raises `ServiceError` if a server does not start, or another platform uses the folder.
    """
    source = dict(os.environ if environ is None else environ)
    folder = folder.absolute()
    settings = ApiSettings.from_env(source)
    WebhookSettings.from_env(source)
    worker = WorkerSettings.from_env(source)
    SearchSettings.from_env(source)
    if worker.engine == "diffusers":
        local_folder(worker.model)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(record.lock(folder))
        except AlreadyRunning as error:
            raise ServiceError(str(error)) from None
        except OSError as error:
            raise SettingsError(f"--folder {folder} cannot be used: {error.strerror}.") from None
        # The processes check their ports too, but report to their logs.
        port = _port(settings, source)
        policy = _policy(settings)
        meaning = policy is not None and bool(policy.meaning.heads) and not settings.moderation_url
        looks = policy is not None and policy.second_look is not None
        metrics_ports = _metrics_ports(worker.metrics_port, workers + webhooks + meaning + looks + search)
        redis = None
        if not source.get("DARKROOM_REDIS_URL"):
            redis = RedisServer(folder / "redis")
            redis.start()
            stack.callback(redis.stop)
            source["DARKROOM_REDIS_URL"] = redis.url
            _migrate_to_layout(BackendSettings.from_env(source))
        if not source.get("DARKROOM_BROKER_URL"):
            source["DARKROOM_BROKER_URL"] = source["DARKROOM_REDIS_URL"].rpartition("/")[0] + BROKER_DATABASE
        source["DARKROOM_PORT"] = str(port)
        if not source.get("DARKROOM_BLOB_DIR"):
            source["DARKROOM_BLOB_DIR"] = str(folder / "blobs")
        source.setdefault("DARKROOM_LOG_FORMAT", "console")
        if search:
            _add_search(source, folder)
        if meaning:
            _add_meaning(source)
        admin_key = source.pop("DARKROOM_ADMIN_KEY", "") or record.admin_key(folder)
        host = EVERYWHERE.get(settings.host, settings.host)
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        children = [_child("api", folder, {**source, "DARKROOM_ADMIN_KEY": admin_key})]
        names = [f"worker-{number}" for number in range(1, workers + 1)] + ["webhooks"] * webhooks
        names += [MEANING] * meaning
        names += [SECOND_LOOK] * looks
        names += [SEARCH] * search
        for name, metrics_port in zip(names, metrics_ports, strict=True):
            children.append(_child(name, folder, {**source, "DARKROOM_METRICS_PORT": metrics_port}))
        platform = Platform(
            url, folder, worker.model, children, redis, "" if settings.anonymous else admin_key
        )
        stack.callback(platform.stop)
        for child in children:
            if not (search_later and child.name == SEARCH):
                child.start()
        record.write(folder, url, source)
        stack.callback(record.erase, folder)
        yield platform


def _add_search(source: dict[str, str], folder: Path) -> None:
    """Adds the settings with which API, workers and search find each other, where they are not set."""
    port = source.setdefault("DARKROOM_SEARCH_PORT", str(process.free_port()))
    for name, value in (
        ("CLIP", EMBEDDED_CLIP),
        ("SEARCH_INDEX", f"embedded:{folder / 'search-index'}"),
        ("SEARCH_TOKEN", secrets.token_urlsafe(24)),
        ("SEARCH_URL", f"http://127.0.0.1:{port}"),
    ):
        source[f"DARKROOM_{name}"] = source.get(f"DARKROOM_{name}") or value


def _policy(settings: ApiSettings) -> Policy | None:
    """The policy, which says what processes the platform needs; None: there is none.

    Raises `SettingsError` for a policy that cannot be used.
    """
    if settings.moderation is None:
        return None
    try:
        return read_policy(settings.moderation)
    except InvalidPolicy as error:
        raise SettingsError(f"DARKROOM_MODERATION: {error}") from None


def _add_meaning(source: dict[str, str]) -> None:
    """Adds the settings with which the API finds the process that reads the meaning of prompts."""
    port = source.setdefault("DARKROOM_MODERATION_PORT", str(process.free_port()))
    source["DARKROOM_MODERATION_TOKEN"] = source.get("DARKROOM_MODERATION_TOKEN") or secrets.token_urlsafe(24)
    source["DARKROOM_MODERATION_URL"] = f"http://127.0.0.1:{port}"


def _migrate_to_layout(settings: BackendSettings) -> None:
    """Moves the jobs of the embedded Redis to the layout of the settings. No other process uses it yet.

    Raises `SettingsError`, `ServiceError`.
    """
    try:
        with ThreadPoolExecutor(1) as thread:  # the caller's thread may run an event loop
            thread.submit(asyncio.run, migrated(settings, force=True)).result()
    except (MigrationRefused, StoreUnavailable) as error:
        raise ServiceError(str(error)) from None


def _child(name: str, folder: Path, environ: dict[str, str]) -> Child:
    return Child(name, name.partition("-")[0], folder / name, {**environ, "PYTHONPATH": _python_path()})


def _port(settings: ApiSettings, environ: Mapping[str, str]) -> int:
    """Returns the port of the setting, else the default port if it is free, else a free one.

    Raises `SettingsError` if the port of the setting is in use.
    """
    host, port = settings.host, settings.port
    if not environ.get("DARKROOM_PORT"):
        return port if is_free(host, port) else process.free_port()
    if port == 0:
        return process.free_port()
    listen(host, port, "DARKROOM_PORT", shared=settings.share_port).close()
    return port


def _metrics_ports(first: int, count: int) -> list[str]:
    """Returns each process's metrics port, counted up from `first`.

    Raises `SettingsError` for a port in use.
    """
    ports = range(first, first + count) if first else [0] * count
    for port in filter(None, ports):
        listen("0.0.0.0", port, "DARKROOM_METRICS_PORT").close()  # noqa: S104 - as the processes do
    return [str(port) for port in ports]


def _python_path() -> str:
    return os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", ""))))

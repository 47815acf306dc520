"""The embedded platform: API, workers and, where none is given, a Redis, as child processes of one supervisor."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

from cli.services import process
from cli.services.process import ServiceError
from cli.services.redis import RedisServer
from client import Client
from contracts.errors import SettingsError
from contracts.settings import ApiSettings
from contracts.tenancy import new_token

READY_S: Final = 720.0
"""A worker may take its `load_timeout_s` (600 by default) for its model, and before that come the imports."""
POLL_S: Final = 0.1
MAX_RESTARTS: Final = 3
HEALTHY_S: Final = 60.0
"""A child that has run this long starts with a clean record after its next fault."""
BROKER_DATABASE: Final = "/1"
DEFAULT_PORT: Final = 8000
ADMIN_KEY_FILE: Final = "admin.key"


@dataclass(slots=True)
class Child:
    """One supervised process; `restarts` since it last ran well."""

    name: str
    module: str
    folder: Path
    environ: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restarts: int = 0

    def start(self) -> None:
        self.process = process.launch([sys.executable, "-m", self.module], self.folder, self.environ)
        self.started_at = time.monotonic()

    def stop(self, timeout_s: float) -> None:
        if self.process is not None:
            process.end(self.process, timeout_s)
            self.process = None

    @property
    def log(self) -> Path:
        return self.folder / "output.log"


@dataclass(slots=True)
class Platform:
    """A running platform. `watch` it, then `stop` it."""

    url: str
    folder: Path
    children: list[Child] = field(default_factory=list)
    redis: RedisServer | None = None
    key: str = ""
    """What the platform's own requests must carry; empty where none is needed."""

    def wait_ready(self) -> None:
        """Returns once a job would be run. Raises `ServiceError` with the end of the log of what failed."""
        client = Client(self.url, api_key=self.key)
        until = time.monotonic() + READY_S
        try:
            while not client.ready():
                if time.monotonic() > until:
                    raise ServiceError(f"Not ready within {READY_S:g} s; see {self.folder}.")
                self.check()
                time.sleep(POLL_S)
        finally:
            client.close()

    def check(self) -> None:
        """Restarts what has died. Raises `ServiceError` for what dies again and again."""
        if self.redis is not None and not self.redis.alive():
            self.redis.start()
        for child in self.children:
            if child.process is None or child.process.poll() is None:
                continue
            if time.monotonic() - child.started_at > HEALTHY_S:
                child.restarts = 0
            if child.restarts >= MAX_RESTARTS:
                tail = child.log.read_text(errors="replace")[-2000:]
                raise ServiceError(f"The {child.name} ends again and again:\n{tail}")
            child.restarts += 1
            child.start()

    def stop(self) -> None:
        """Ends all: the workers give their jobs back while the others still listen."""
        for child in reversed(self.children):
            child.stop(timeout_s=40.0)
        if self.redis is not None:
            self.redis.stop()


@contextlib.contextmanager
def started(
    folder: Path, workers: int = 1, environ: dict[str, str] | None = None, *, webhooks: bool = True
) -> Iterator[Platform]:
    """A platform that is starting, its data and logs in `folder`; ended on leaving. Settings come from `environ`.

    Raises `ServiceError`, also when another platform already uses the folder.
    """
    source = dict(os.environ if environ is None else environ)
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        _take(lock, folder)
        redis = None
        if not source.get("DARKROOM_REDIS_URL"):
            redis = RedisServer(folder / "redis")
            redis.start()
            source["DARKROOM_REDIS_URL"] = redis.url
        if not source.get("DARKROOM_BROKER_URL"):
            source["DARKROOM_BROKER_URL"] = source["DARKROOM_REDIS_URL"].rpartition("/")[0] + BROKER_DATABASE
        source["DARKROOM_PORT"] = str(_port(source))
        source.setdefault("DARKROOM_BLOB_DIR", str(folder / "blobs"))
        source.setdefault("DARKROOM_LOG_FORMAT", "console")
        admin_key = source.pop("DARKROOM_ADMIN_KEY", "") or _admin_key(folder / ADMIN_KEY_FILE)
        # Children run in folders of their own: what is named from here must be found from there.
        model = Path(source.get("DARKROOM_MODEL", "models/emoji-turbo"))
        if model.exists():
            source["DARKROOM_MODEL"] = str(model.absolute())
        url = f"http://{source.get('DARKROOM_HOST', '127.0.0.1')}:{source['DARKROOM_PORT']}"
        names = ["api", *(f"worker-{number}" for number in range(1, workers + 1))]
        if webhooks:
            names.append("webhooks")
        children = [
            Child(name, name.partition("-")[0], folder / name, {**source, "PYTHONPATH": _here()})
            for name in names
        ]
        children[0].environ["DARKROOM_ADMIN_KEY"] = admin_key
        platform = Platform(url, folder, children, redis, "" if _anonymous(source) else admin_key)
        try:
            for child in children:
                child.start()
            yield platform
        finally:
            platform.stop()


def _anonymous(environ: dict[str, str]) -> bool:
    try:
        return ApiSettings.from_env(environ).anonymous
    except SettingsError as error:
        raise ServiceError(str(error)) from None


def _admin_key(file: Path) -> str:
    """The first key of this platform, made once and readable by its owner alone."""
    try:
        return file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        token = new_token()
        with open(
            file, "x", encoding="ascii", opener=lambda path, flags: os.open(path, flags, 0o600)
        ) as made:
            made.write(token + "\n")
        return token


def _take(lock: TextIO, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ServiceError(f"A platform is running in {folder} already.") from None


def _port(environ: dict[str, str]) -> int:
    """The port asked for, else the usual one, else a free one."""
    if environ.get("DARKROOM_PORT"):
        return int(environ["DARKROOM_PORT"])
    return process.free_port() if process.answers(DEFAULT_PORT) else DEFAULT_PORT


def _here() -> str:
    return os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", ""))))

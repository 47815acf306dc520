"""A platform's stores to back up and to restore, with jobs of every state, and the commands."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from cli.main import app
from cli.services.redis import RedisServer
from contracts.jobs import Webhook
from contracts.settings import BackendSettings
from contracts.tenancy import ApiKey, Scope
from store.stores import Stores, open_stores
from tests.store.made import led, new, result

Command = Callable[..., Result]
PICTURE = b"\x89PNG a red apple"
INPUT = b"a picture to start from"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that sends its snapshots at once."""
    one = RedisServer(tmp_path_factory.mktemp("server"), options=("--repl-diskless-sync-delay", "0"))
    one.start()
    yield one
    one.stop()


@pytest.fixture
def url(server: RedisServer) -> str:
    with redis.Redis(port=server.port) as client:
        client.flushall()
        client.config_set("maxmemory", "0")
    return server.url.replace("/0", "/2")


@pytest.fixture
def darkroom(monkeypatch: pytest.MonkeyPatch, url: str, tmp_path: Path) -> Command:
    monkeypatch.setenv("DARKROOM_REDIS_URL", url)
    monkeypatch.setenv("DARKROOM_BLOB_DIR", str(tmp_path / "blobs"))

    def run(*arguments: str | Path, **environ: str) -> Result:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "backup.tar"


def on(url: str, folder: Path, work: Callable[[Stores], Any], **settings: Any) -> Any:
    """The answer of `work` on the platform's stores."""

    async def run() -> Any:
        stores = open_stores(BackendSettings(redis_url=url, blob_dir=folder / "blobs", **settings))
        try:
            return await work(stores)
        finally:
            await stores.close()

    return asyncio.run(run())


async def lived_in(stores: Stores) -> dict[str, str]:
    """A job that has ended and owes a webhook, one that runs, one that waits and whose message is with the broker, one that
    follows it; a key, a picture. Answers the ids."""
    name = await stores.blobs.put(PICTURE, "png")
    await stores.blobs.put(INPUT, "png", is_input=True)
    owing = new("a" * 64).model_copy(
        update={"webhook": Webhook(url="https://receiver.example/", events=("job.succeeded",))}
    )
    await stores.jobs.succeed(await led(stores.jobs, owing), result(name))
    running = new("b" * 64)
    await led(stores.jobs, running)
    waiting, following = new("c" * 64), new("c" * 64)
    for job in (waiting, following):
        await stores.jobs.submit(job)
    await stores.jobs.confirm(waiting.id)
    await stores.keys.create(
        ApiKey(id="dk_key", tenant="acme", name="", digest="0" * 64, scopes=(Scope.GENERATE,), created_at=1.0)
    )
    return {
        "owing": owing.id,
        "running": running.id,
        "waiting": waiting.id,
        "following": following.id,
        "picture": name,
    }


def lose(url: str, folder: Path) -> None:
    with redis.Redis.from_url(url) as client:
        client.flushall()
    shutil.rmtree(folder / "blobs", ignore_errors=True)


def untouched(url: str, folder: Path) -> bool:
    with redis.Redis.from_url(url) as client:
        return client.dbsize() == 0 and not (folder / "blobs").exists()

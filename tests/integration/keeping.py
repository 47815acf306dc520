"""What a platform keeps, as it is seen from outside, and tenants who use it in every way."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from PIL import Image
from typer.testing import CliRunner

from cli.main import app
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer
from contracts.kept import KEPT, Kept, Place, row_of
from contracts.search_settings import EMBEDDED
from contracts.settings import BackendSettings
from store.stores import open_stores
from tests.integration.conftest import Stack
from tests.webhooks.conftest import receiving
from tests.worker import policies

STATE, CACHE, BROKER = 0, 2, 1
"""Databases: what is where is seen, not supposed."""
MOMENTS = {
    "darkroom:restoring",  # while `darkroom restore` runs, which wants a platform that has stopped
    "darkroom:{house}:migration",  # likewise, while `darkroom migrate` runs
    "darkroom:{house}:layout",  # written once, by the first process that starts
    "darkroom:{fair:*}:clock",  # of versions up to 0.2.0
    "??/.*.part",
    "inputs/??/.*.part",
    "held/??/.*.part",
    "_kombu.binding.*",
    "unacked",
    "unacked_index",
    "unacked_mutex",
    "vectors-*.usearch",  # of tenants with many images
    "darkroom-search:*",
    "darkroom_search.*",
}
"""Too short to be met, or of another broker or index."""
LOADED_S = 300.0
"""A search process loads a CLIP first."""
SECRET = "words that nobody else would use"


@dataclass
class Seen:
    """Names that were met, by the database or place."""

    names: dict[int | Place, set[str]] = field(default_factory=dict)

    def note(self, where: int | Place, names: Any) -> None:
        self.names.setdefault(where, set()).update(names)

    def strangers(self) -> list[str]:
        """What has no row."""
        found = []
        for where, names in self.names.items():
            places = {STATE: Place.STATE, CACHE: Place.CACHE, BROKER: Place.BROKER}
            place = where if isinstance(where, Place) else places[where]
            found += [f"{place}: {name}" for name in sorted(names) if row_of(name, place) is None]
        return found

    def unmet(self) -> list[str]:
        """Patterns of which nothing was met."""
        met = {name for names in self.names.values() for name in names}
        patterns = [(row, pattern) for row in KEPT for pattern in row.patterns if pattern not in MOMENTS]
        return [pattern for row, pattern in patterns if not any(_covers(row, pattern, name) for name in met)]


def _covers(row: Kept, pattern: str, name: str) -> bool:
    only = Kept(row.what, row.place, row.store, (pattern,), "", "", "", "", "")
    return only.covers(name)


@contextmanager
def watched(server: RedisServer, folder: Path, index: Path | None = None) -> Iterator[Seen]:
    """Every key that is touched while the body runs, as the server tells it, however short its life; and the files at its end."""
    seen, over = Seen(), threading.Event()
    with redis.Redis(port=server.port, decode_responses=True) as client, client.pubsub() as told:
        client.config_set("notify-keyspace-events", "KA")
        told.psubscribe("__keyspace@*__:*")
        assert told.get_message(timeout=10) is not None

        def listen() -> None:
            while not over.is_set():
                message = told.get_message(timeout=0.2)
                if message is not None and message["type"] == "pmessage":
                    database, _, name = message["channel"].removeprefix("__keyspace@").partition("__:")
                    seen.note(int(database), [name])

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield seen
            for place, root in ((Place.PICTURES, folder), (Place.INDEX, index)):
                if root is not None:
                    seen.note(
                        place, [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
                    )
        finally:
            over.set()
            thread.join()
            client.config_set("notify-keyspace-events", "")


@dataclass
class Tenant:
    """A caller with a key of its own."""

    stack: Stack
    token: str

    def ask(self, method: str, path: str, **rest: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.token}", **rest.pop("headers", {})}
        return self.stack.http.request(method, path, headers=headers, **rest)

    def submit(self, headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
        response = self.ask("POST", "/v1/jobs", json=body, headers=headers or {})
        assert response.status_code in (200, 202), response.text
        job: dict[str, Any] = response.json()
        return job

    def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        until = time.monotonic() + 60
        while job["status"] in ("queued", "running"):
            assert time.monotonic() < until, (job, self.stack.logs())
            job = self.ask("GET", job["urls"]["self"], headers={"Prefer": "wait=5"}).json()
        return job


def tenant(stack: Stack, name: str, concurrent_jobs: int = 50) -> Tenant:
    limits = {"requests_per_minute": 6000, "concurrent_jobs": concurrent_jobs, "images_per_day": 1000}
    made = stack.http.post("/v1/keys", json={"tenant": name, **limits})
    assert made.status_code == 201, made.text
    return Tenant(stack, made.json()["key"])


def until(true: Callable[[], bool], stack: Stack, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, stack.logs()
        time.sleep(0.05)


def picture(colour: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def use(caller: Tenant, name: str, words: str) -> None:
    """Jobs of all kinds, each brought to its end, and whatever else a tenant can ask for."""
    drawn = caller.ended(caller.submit(prompt=words, seed=1))
    assert drawn["status"] == "succeeded", drawn
    assert caller.submit(prompt=words, seed=1)["cache"] == "hit"
    pair = [caller.submit(prompt=f"{words} slow=1", seed=2) for _ in range(2)]
    assert [job["cache"] for job in pair] == ["miss", "joined"]
    once = {"Idempotency-Key": "once"}
    assert len({caller.submit(once, prompt=f"{words}, once")["id"] for _ in range(2)}) == 1
    start = caller.submit(
        prompt=words,
        init_image=picture("red" if name == "acme" else "blue"),
        strength=0.6,
        num_inference_steps=4,
    )
    shown = caller.submit(prompt=f"{words}, in steps", num_inference_steps=6, previews=2)
    failed = caller.submit(prompt=f"{words} fault:raise")
    moderated(caller, words)
    canceled = caller.submit(prompt=f"{words}, canceled")
    caller.ask("POST", canceled["urls"]["cancel"])
    batch = caller.ask(
        "POST", "/v1/jobs:batch", json={"requests": [{"prompt": f"{words} {n}"} for n in range(3)]}
    )
    assert batch.status_code == 200, batch.text
    openai = caller.ask(
        "POST",
        "/v1/images/generations",
        json={"prompt": f"{words}, openai", "model": "fake", "size": "64x64"},
    )
    assert openai.status_code == 200, openai.text
    brought_in = {"image": picture("red" if name == "acme" else "blue"), "caption": words, "origin": words}
    assert caller.ask("POST", "/v1/search/images", json=brought_in).status_code == 201
    ends = [caller.ended(job)["status"] for job in (*pair, start, shown, failed)]
    assert ends == ["succeeded"] * 4 + ["failed"], (ends, caller.stack.logs())
    with receiving(500) as refusing, receiving(410) as gone, receiving() as taking:
        for receiver in (refusing, gone, taking):
            caller.ended(
                caller.submit(prompt=f"{words}, told to {receiver.url}", webhook={"url": receiver.url})
            )
            receiver.wait_for(1)
    assert caller.ask("POST", "/v1/webhooks/secret/rotate").status_code == 200
    caller.ended(caller.submit(prompt=f"{words}, nearly", cache="similar"))
    click = {"query": words, "image": f"{'0' * 64}.png"}
    assert caller.ask("POST", "/v1/search/clicks", json=click).status_code == 204
    # At its limit a key is told by the records which of its jobs run.
    narrow = tenant(caller.stack, name, concurrent_jobs=1)
    running = narrow.submit(prompt=f"{words} slow=3")
    until(lambda: narrow.ask("GET", running["urls"]["self"]).json()["status"] == "running", caller.stack)
    assert narrow.ask("POST", "/v1/jobs", json={"prompt": f"{words}, too many"}).status_code == 429


def moderated(caller: Tenant, words: str) -> None:
    """A model looks at a held image. Then it is opened, refused, appealed against and released. A blocked one is given
    back to the key."""
    blocked = caller.ended(caller.submit(prompt=f"{words}, blocked", seed=policies.BLOCKED))
    assert blocked["status"] == "failed", blocked
    job = caller.ended(caller.submit(prompt=f"{words}, held", seed=policies.HELD))
    assert job["images"][0]["url"] is None, job
    key = {"tenant": "desk", "name": "a reviewer", "scopes": ["moderate"]}
    reviewer = Tenant(caller.stack, caller.stack.http.post("/v1/keys", json=key).json()["key"])
    # Images are signed here, so the name is not that of the unsigned file.
    waiting: list[dict[str, Any]] = []

    def looked_at() -> bool:
        waiting[:] = reviewer.ask("GET", "/v1/admin/moderation/reviews").json()["data"]
        return all(each["second_look"] is not None for each in waiting)

    until(looked_at, caller.stack)
    (held,) = waiting
    path = f"/v1/admin/moderation/reviews/{held['name']}"
    assert reviewer.ask("GET", f"{path}/picture").status_code == 200
    for action in ("undo", "refuse"):
        answer = reviewer.ask("POST", f"{path}/{action}")
        assert answer.status_code == 200 or action == "undo", answer.text
    appeal = caller.ask("POST", f"{job['urls']['self']}/images/0/appeal", json={"reason": "It is noise."})
    assert appeal.status_code == 202, appeal.text
    assert reviewer.ask("POST", f"{path}/release").status_code == 200
    image = caller.ask("GET", job["urls"]["self"]).json()["images"][0]
    assert caller.ask("GET", image["url"]).status_code == 200
    # The next tenant's is held again.
    assert reviewer.ask("POST", f"{path}/undo").status_code == 200


def owed(stack: Stack) -> int:
    """How many jobs and deletions the index is owed."""

    async def count() -> int:
        folder = Path(stack.environ["DARKROOM_BLOB_DIR"])
        stores = open_stores(BackendSettings(redis_url=stack.environ["DARKROOM_REDIS_URL"], blob_dir=folder))
        try:
            return await stores.pictures.owed()
        finally:
            await stores.close()

    return asyncio.run(count())


def index_folder(stack: Stack) -> Path:
    return Path(stack.environ["DARKROOM_SEARCH_INDEX"].removeprefix(EMBEDDED))


def indexed(index: Path) -> set[str]:
    """The tenants of which the index has images."""
    with closing(sqlite3.connect(f"file:{index / 'pictures.sqlite3'}?mode=ro", uri=True)) as database:
        return {name for (name,) in database.execute("SELECT name FROM scopes WHERE pictures > 0")}


def queues(broker: RabbitServer | None) -> dict[str, int]:
    """Every queue of the broker, and how many messages are in it."""
    assert broker is not None
    lines = broker.control("-q", "list_queues", "name", "messages", "--no-table-headers").splitlines()
    return {name: int(depth) for name, _, depth in (line.partition("\t") for line in lines)}


def counts(tenant: str) -> dict[str, int]:
    told = CliRunner().invoke(app, ["tenant", "erase", tenant, "--dry-run"])
    assert told.exit_code == 0, told.output
    found: dict[str, int] = json.loads(told.stdout)["counts"]
    return found


def dump(port: int, database: int) -> str:
    """Every key of a database, and what it holds, as text."""
    with redis.Redis(port=port, db=database, decode_responses=True) as client:
        kinds: dict[str, Callable[[str], Any]] = {
            "string": client.get,
            "hash": client.hgetall,
            "zset": lambda name: client.zrange(name, 0, -1, withscores=True),
            "list": lambda name: client.lrange(name, 0, -1),
            "set": client.smembers,
        }
        return str({name: kinds.get(client.type(name), str)(name) for name in client.scan_iter(count=1000)})

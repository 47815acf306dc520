"""Everything that the platform keeps has a row in `contracts/kept.py`, and the documentation shows it: what is there is found by running the
platform in every way and looking, not by asking its own lists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import httpx
import pytest
from kombu import Connection, Queue
from typer.testing import CliRunner

from benchmarks.lib.platform import FAKE, served
from broker import topology
from cli.main import app
from cli.services import process
from cli.services.redis import RedisServer
from contracts.kept import KEEPS_NOTHING, KEPT, Place, row_of, table
from contracts.settings import BackendSettings
from contracts.tenancy import new_token
from store.key_names import PREFIX
from store.stores import Stores
from tests.integration.conftest import ROOT, Stack
from tests.integration.keeping import (
    BROKER,
    CACHE,
    LOADED_S,
    SECRET,
    STATE,
    counts,
    dump,
    index_folder,
    indexed,
    owed,
    queues,
    tenant,
    until,
    use,
    watched,
)
from tests.integration.people import api_for_people
from tests.moderation.authority import Authority
from tests.openid.running import signed_in
from tests.second_look.fake_endpoint import endpoint_running
from tests.worker import policies


def test_every_store_has_its_rows() -> None:
    opened = {each.name for each in fields(Stores)} - {"check", "close"}
    assert {row.store for row in KEPT} == opened - KEEPS_NOTHING | {"broker", "index"}


def test_every_queue_has_its_row() -> None:
    settings, found = BackendSettings(), []
    for name, make in vars(topology).items():
        if name.endswith("_queue") and callable(make):
            needed = make.__code__.co_varnames[: make.__code__.co_argcount]
            found.append(make(*({"model": "m", "settings": settings}[each] for each in needed)))
    assert len(found) >= 4
    assert all(isinstance(queue, Queue) for queue in found)
    assert [queue.name for queue in found if row_of(queue.name, Place.BROKER) is None] == []


def test_the_documentation_shows_the_rows_and_no_others() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    lines = list(table())
    assert "\n".join(lines) in page, "docs/operations.md must hold what contracts.kept.table() draws"
    assert page.count(lines[0]) == 1
    section = page.partition("## What is kept, and for how long")[2].partition("\n## ")[0]
    assert [line for line in section.splitlines() if line.startswith("|")] == lines


def test_a_backup_takes_what_begins_as_ours() -> None:
    """So a family on the state Redis is in every backup, or must not have another beginning."""
    patterns = [pattern for row in KEPT if row.place is Place.STATE for pattern in row.patterns]
    assert [pattern for pattern in patterns if not pattern.startswith(PREFIX)] == []
    assert [row.what for row in KEPT if row.place is Place.STATE and not row.backup.startswith("yes")] == []


def test_every_row_says_something_in_each_place() -> None:
    for row in KEPT:
        words = (row.what, row.until, row.backup, row.versions, row.erased, row.bound)
        assert all(words), row
        assert "|" not in "".join(words), row
    assert len({pattern for row in KEPT for pattern in row.patterns}) == sum(
        len(row.patterns) for row in KEPT
    )


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """State, cached results and pictures apart; a worker, webhooks, search, second looks, keys."""
    folder = tmp_path_factory.mktemp("kept")
    studio = Authority(folder / "authority").issue()
    search_port = process.free_port()
    with served(RedisServer(folder / "redis")) as own, endpoint_running() as endpoint:
        environ = {
            **FAKE,
            "DARKROOM_CACHE_REDIS_URL": own.url.replace("/0", f"/{CACHE}"),
            "DARKROOM_CLIP": str(ROOT / "models" / "emoji-clip"),
            "DARKROOM_SEARCH_INDEX": f"embedded:{folder / 'index'}",
            "DARKROOM_SIMILAR_FLOOR": "1",
            "DARKROOM_RERANK_CLIP": str(ROOT / "models" / "emoji-clip"),
            "DARKROOM_RERANK_CACHE": str(folder / "index" / "rerank.sqlite3"),
            "DARKROOM_SEARCH_PORT": str(search_port),
            "DARKROOM_SEARCH_URL": f"http://127.0.0.1:{search_port}",
            "DARKROOM_ADMIN_KEY": new_token(),
            "DARKROOM_ALLOW_ANONYMOUS": "false",
            "DARKROOM_SWEEP_INTERVAL_S": "0.2",
            "DARKROOM_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
            "DARKROOM_MODERATION": str(policies.policy_in(folder / "policy", endpoint.url)),
            "DARKROOM_REVIEW_PICTURES_PER_DAY": "9",
            "DARKROOM_C2PA_CERTIFICATES": str(studio.certificates),
            "DARKROOM_C2PA_KEY": str(studio.key),
        }
        with Stack.open(environ, folder, own, webhooks=True) as running:
            running.start("search", "search")
            running.start("second_look", "second_look")
            yield running


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whatever_is_kept_has_a_row_and_of_an_erased_tenant_nothing_is(
    platform: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in platform.environ.items():
        if name.startswith("DARKROOM_"):
            monkeypatch.setenv(name, value)
    blobs = Path(platform.environ["DARKROOM_BLOB_DIR"])
    index = index_folder(platform)
    assert platform.broker is not None
    with watched(platform.redis, blobs, index) as seen:
        acme, other = tenant(platform, "acme"), tenant(platform, "other")
        until(lambda: acme.ask("GET", "/v1/search").status_code == 200, platform, LOADED_S)
        use(acme, "acme", SECRET)
        use(other, "other", "an apple")
        with api_for_people(platform) as public, httpx.Client(base_url=public) as browser:
            address = browser.get("/sign-in").headers["location"]
            assert browser.get(signed_in(address, "ada")).headers["location"] == "/review"
            root = {"Authorization": f"Bearer {platform.environ['DARKROOM_ADMIN_KEY']}"}
            assert browser.delete("/v1/admin/sessions", headers=root).status_code == 204
        with Connection(platform.environ["DARKROOM_BROKER_URL"]) as connection:
            channel = connection.channel()
            letter = channel.prepare_message(b"no job")
            channel.basic_publish(letter, exchange="", routing_key=topology.DEAD_LETTER_QUEUE)
        until(lambda: topology.REFUSED_QUEUE in queues(platform.broker), platform)
        until(lambda: any("{usage}" in name for name in seen.names[STATE]), platform)
        exported = CliRunner().invoke(app, ["tenant", "export", "acme", str(tmp_path / "acme.tar")])
        assert exported.exit_code == 0, exported.output
        scanned = CliRunner().invoke(app, ["moderation", "scan", "--clip", ""])
        assert scanned.exit_code == 0, scanned.output
        theirs = counts("other")
        until(lambda: owed(platform) == 0, platform, LOADED_S)
        assert indexed(index) == {"acme", "other"}
        # Away while the tenant is erased: what it must forget is kept for it.
        search = platform.processes["search"]
        search.terminate()
        assert search.wait(60) == 0, platform.logs()

        # A worker that is asked to end says what it has learnt. Without one, a job's message stays with the broker.
        worker = platform.processes["worker-1"]
        worker.terminate()
        assert worker.wait(60) == 0, platform.logs()
        waiting = acme.submit(prompt=f"{SECRET}, late")
        refused = CliRunner().invoke(app, ["tenant", "erase", "acme"])
        assert (refused.exit_code, "have not ended" in refused.output) == (1, True), refused.output
        done = CliRunner().invoke(app, ["tenant", "erase", "acme", "--cancel"])
        assert done.exit_code == 0, done.output
        assert queues(platform.broker)[topology.queue_name("fake")] == 1
        seen.note(Place.BROKER, queues(platform.broker))
    assert seen.strangers() == [], (
        "each needs a row in contracts/kept.py, and the table in docs/operations.md"
    )
    assert seen.unmet() == [], "the platform was not used in every way"

    receipt = json.loads(done.stdout)
    assert receipt["complete"], receipt
    assert receipt["counts"]["canceled_jobs"] == 1
    kinds = {
        "jobs",
        "webhooks",
        "pictures",
        "picture_records",
        "reviews",
        "source_pictures",
        "cached_results",
    }
    assert kinds <= set(receipt["counts"])
    assert owed(platform) > 0, "the index is told to forget"
    platform.start("search", "search-2")
    until(lambda: owed(platform) == 0 and indexed(index) == {"other"}, platform, LOADED_S)
    platform.processes["search-2"].terminate()
    assert platform.processes["search-2"].wait(60) == 0, platform.logs()
    remains = b"".join(path.read_bytes() for path in index.iterdir())
    assert b"an apple" in remains
    assert SECRET.encode() not in remains
    assert acme.ask("GET", waiting["urls"]["self"]).status_code == 401
    platform.start("worker", "worker-2")
    platform.wait_ready(1)
    # Its message goes by without a trace: those that come after it are drawn.
    assert other.ended(other.submit(prompt="an apple, afterwards"))["status"] == "succeeded"
    until(
        lambda: all(depth == 0 for name, depth in queues(platform.broker).items() if "jobs" in name), platform
    )
    for database in (STATE, CACHE):
        kept = dump(platform.redis.port, database)
        assert re.findall(rf"\bacme\b|{SECRET}|{acme.token[:11]}", kept) == []
    lasting = (
        "jobs",
        "pictures",
        "picture_records",
        "source_pictures",
        "webhooks",
        "api_keys",
        "idempotency_keys",
        "webhook_secrets",
    )
    now = counts("other")
    assert all(now[kind] >= theirs[kind] for kind in lasting), (theirs, now)
    books = CliRunner().invoke(app, ["audit", "--full"])
    assert books.exit_code == 0, books.output


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_redis_as_the_broker_keeps_nothing_without_a_row(redis_server: RedisServer, tmp_path: Path) -> None:
    environ = {
        "DARKROOM_ENGINE": "fake",
        "DARKROOM_MODEL": "fake",
        "DARKROOM_CACHE_REDIS_URL": redis_server.url.replace("/0", f"/{CACHE}"),
    }
    with (
        Stack.open(environ, tmp_path, redis_server, broker=False) as stack,
        watched(redis_server, Path(stack.environ["DARKROOM_BLOB_DIR"])) as seen,
    ):
        slow = [stack.submit(prompt=f"slow=0.5 {number}") for number in range(20)]
        for job in slow:
            assert stack.ended(job)["status"] == "succeeded"
    assert seen.names[BROKER]
    assert seen.strangers() == []

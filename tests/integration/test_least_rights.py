"""The whole platform under the two users of docs/security.md, made by its own commands: no right is missing, and none is asked for
that they do not have."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection
from typer.testing import CliRunner

from benchmarks.lib.platform import FAKE, served
from broker.topology import DEAD_LETTER_QUEUE, REFUSED_QUEUE
from cli.main import app
from cli.services import process
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer
from tests.integration.conftest import ROOT, Stack
from tests.webhooks.conftest import receiving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PASSWORD = "of-the-test"


def commands(program: str) -> list[list[str]]:
    """Arguments of each command of `program` that the page gives."""
    page = (ROOT / "docs" / "security.md").read_text().replace("\\\n", "")
    block = re.search(r"```sh\n(redis-cli.*?)```", page, re.DOTALL)
    assert block is not None
    found = [shlex.split(line.replace("PASSWORD", PASSWORD)) for line in block[1].splitlines()]
    return [words[1:] for words in found if words[0] == program]


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 200
    while not what():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, dict[str, str]]]:
    """A deployment under these users; and its environment."""
    folder = tmp_path_factory.mktemp("least")
    own, rabbit = RedisServer(folder / "redis"), RabbitServer(folder / "rabbitmq")
    search_port = process.free_port()
    with served(own), served(rabbit):
        (given,) = commands("redis-cli")
        with redis.Redis(port=own.port) as client:
            client.execute_command(*given)
        for arguments in commands("rabbitmqctl"):
            rabbit.control(*arguments)
        environ = {
            "DARKROOM_REDIS_URL": own.url.replace("//", f"//darkroom:{PASSWORD}@"),
            "DARKROOM_BROKER_URL": f"amqp://darkroom:{PASSWORD}@127.0.0.1:{rabbit.port}/darkroom",
            "DARKROOM_BLOB_DIR": str(folder / "blobs"),
            **FAKE,
            "DARKROOM_SWEEP_INTERVAL_S": "0.2",
            "DARKROOM_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
            "DARKROOM_CLIP": str(ROOT / "models" / "emoji-clip"),
            "DARKROOM_SEARCH_INDEX": f"embedded:{folder / 'index'}",
            "DARKROOM_SEARCH_PORT": str(search_port),
            "DARKROOM_SEARCH_URL": f"http://127.0.0.1:{search_port}",
        }
        with Stack.open(environ, folder, own, rabbit, webhooks=True) as running:
            running.start("search", "search")
            yield running, environ


def found(stack: Stack) -> list[str] | None:
    """The jobs of the images whose prompt is an apple; None: the search does not answer yet."""
    answer = stack.http.get("/v1/search", params={"q": "an apple"})
    if answer.status_code != 200:
        return None
    return [hit["job_id"] for hit in answer.json()["data"] if hit["prompt"] == "an apple"]


def denied(stack: Stack) -> list[dict[str, Any]]:
    """What Redis refused to anybody."""
    with redis.Redis(port=stack.redis.port, decode_responses=True) as client:
        found: list[dict[str, Any]] = client.acl_log()
        return found


def test_the_platform_needs_no_more(
    platform: tuple[Stack, dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stack, environ = platform
    with receiving() as receiver:
        job = stack.ended(stack.submit(prompt="an apple", webhook={"url": receiver.url}))
        assert job["status"] == "succeeded", job
        assert stack.http.get(job["images"][0]["url"]).status_code == 200
        receiver.wait_for(1)
    assert stack.submit(prompt="an apple", seed=job["request"]["seed"])["status"] == "succeeded", "a hit"
    once = {"Idempotency-Key": "once"}
    pair = [stack.http.post("/v1/jobs", json={"prompt": "a pair"}, headers=once).json() for _ in range(2)]
    assert pair[0]["id"] == pair[1]["id"]
    slow = stack.submit(prompt="slow=30")
    stack.wait_running()
    with stack.http.stream("GET", slow["urls"]["events"]) as events:
        assert stack.http.post(slow["urls"]["self"] + "/cancel").status_code == 200
        assert any("canceled" in line for line in events.iter_lines())
    assert stack.http.get("/readyz").status_code == 200

    # Its image is found, once the search process has taken it from its queue. An empty index is filled first.
    wait_for(lambda: found(stack) == [job["id"]])
    wait_for(lambda: "rebuild_finished" in (stack.folder / "search" / "output.log").read_text())

    # What is no job passes through the sweeper, from one queue to the other.
    with Connection(environ["DARKROOM_BROKER_URL"]) as connection:
        channel = connection.channel()
        channel.basic_publish(channel.prepare_message(b"x"), exchange="", routing_key=DEAD_LETTER_QUEUE)

        def kept() -> bool:
            try:
                depth: int = connection.channel().queue_declare(REFUSED_QUEUE, passive=True).message_count
            except connection.channel_errors:
                return False
            return depth == 1

        wait_for(kept)

    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    looking = (["doctor"], ["audit"], ["tenant", "export", "public", str(tmp_path / "public.tar")])
    for command in (*looking, ["tenant", "erase", "public", "--cancel"]):
        done = CliRunner().invoke(app, command)
        assert "FAULT" not in done.output, done.output
        assert done.exit_code == 0, done.output
    # The search process forgets what was erased.
    wait_for(lambda: found(stack) == [])
    assert denied(stack) == []
    with (
        pytest.raises(redis.exceptions.NoPermissionError),
        redis.Redis.from_url(environ["DARKROOM_REDIS_URL"]) as client,
    ):
        client.flushall()


def test_a_backup_needs_two_rights_more(
    platform: tuple[Stack, dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stack, environ = platform
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    refused = CliRunner().invoke(app, ["backup", str(tmp_path / "a.tar")])
    assert refused.exit_code != 0
    with redis.Redis(port=stack.redis.port) as client:
        client.execute_command("ACL", "SETUSER", "darkroom", "+sync", "+replconf")
    done = CliRunner().invoke(app, ["backup", str(tmp_path / "b.tar")])
    assert done.exit_code == 0, done.output

"""A held image on a real platform with RabbitMQ: a model looks at it, its owner hears of it, and a process that
dies in between changes nothing."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lib.platform import FAKE
from cli.services.redis import RedisServer
from contracts.tenancy import new_token
from tests.integration.conftest import Stack
from tests.second_look.fake_endpoint import MODEL, FakeEndpoint, endpoint_running, scored
from tests.webhooks.conftest import receiving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE_S = 120.0
POLICY = """
name: house
version: 1
words: {{lists: [{{file: words.txt, category: weapons}}]}}
second_look: {{url: '{url}', model: {model}, api_key_env: LOOK_KEY, timeout_s: 3, may: [release, refuse]}}
rules:
  weapons: {{words: review, second_look: {{review: 0.2, block: 0.8}}}}
"""


@dataclass
class Site:
    stack: Stack
    endpoint: FakeEndpoint
    entries: int = 0
    """Entries of the audit trail before the test."""

    def begin(self, answer: bytes) -> threading.Event:
        """A new test: the model will say this, once the event is set."""
        self.endpoint.requests.clear()
        self.endpoint.answers, self.endpoint.hold = [answer], threading.Event()
        self.entries += len(self.trail())
        return self.endpoint.hold

    def held(self, prompt: str, **more: Any) -> dict[str, Any]:
        job = self.stack.ended(self.stack.submit(prompt=prompt, **more))
        assert job["status"] == "succeeded", job
        return job

    def image(self, job: dict[str, Any]) -> dict[str, Any]:
        image: dict[str, Any] = self.stack.http.get(job["urls"]["self"]).json()["images"][0]
        return image

    def trail(self) -> list[tuple[str, str]]:
        """What the audit trail has of the test: action and actor of each entry."""
        query = {"first": self.entries}
        answer = self.stack.http.get("/v1/admin/moderation/log", params=query).raise_for_status().json()
        assert answer["fault"] is None
        return [(entry["what"]["action"], entry["what"]["by"]) for entry in answer["data"]]

    def until(self, what: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not what():
            assert time.monotonic() < end, self.stack.logs()
            time.sleep(0.1)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Site]:
    with endpoint_running() as endpoint:
        yield from running(tmp_path_factory.mktemp("site"), redis_server, endpoint)


def running(folder: Path, redis_server: RedisServer, endpoint: FakeEndpoint) -> Iterator[Site]:
    (folder / "words.txt").write_text("sword\n")
    (folder / "policy.yaml").write_text(POLICY.format(url=endpoint.url, model=MODEL))
    environ = {
        **FAKE,
        "DARKROOM_ADMIN_KEY": new_token(),
        "DARKROOM_MODERATION": str(folder / "policy.yaml"),
        "DARKROOM_MODERATION_LOG_KEY": "of-the-test",
        "DARKROOM_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
    }
    with Stack.open(environ, folder, redis_server, webhooks=True) as stack:
        stack.start("second_look", "second_look", LOOK_KEY="sk-of-the-test")
        yield Site(stack, endpoint)


def test_a_model_releases_an_image_and_its_owner_hears_of_it(site: Site) -> None:
    hold = site.begin(scored({"weapons": 0.0}))
    with receiving() as receiver:
        job = site.held("a knight with a sword", webhook={"url": receiver.url})
        image = site.image(job)
        assert (image["url"], image["moderation"]["verdict"]) == (None, "in_review")
        hold.set()
        site.until(lambda: site.image(job)["url"] is not None)
        receiver.wait_for(2)
        assert {json.loads(body)["type"] for _, body in receiver.requests} == {
            "job.succeeded",
            "job.moderated",
        }
    image = site.image(job)
    assert image["moderation"]["verdict"] == "released"
    picture = site.stack.http.get(image["url"])
    (seen,) = site.endpoint.requests
    assert (picture.status_code, picture.content) == (200, seen.image)
    assert seen.headers["authorization"] == "Bearer sk-of-the-test"
    assert "knight" not in seen.text
    assert site.trail() == [("release", f"second-look:{MODEL}")]
    logs = site.stack.logs()
    assert "sk-of-the-test" not in logs
    assert "knight" not in logs


def test_a_process_that_is_killed_while_the_model_looks_is_followed_by_one_decision(site: Site) -> None:
    hold = site.begin(scored({"weapons": 1.0}))
    job = site.held("a sword on a table")
    site.endpoint.wait_for(1, PATIENCE_S)
    site.stack.kill("second_look", signal.SIGKILL)
    site.stack.processes["second_look"].wait(60)
    hold.set()
    assert site.image(job)["moderation"]["verdict"] == "in_review"
    site.stack.start("second_look", "second_look", LOOK_KEY="sk-of-the-test")
    site.until(lambda: site.image(job)["moderation"]["verdict"] == "refused")
    assert site.image(job)["url"] is None
    assert len(site.endpoint.requests) == 2
    assert site.trail() == [("refuse", f"second-look:{MODEL}")]
    # Nothing of it is left to do, and another image is looked at once.
    other = site.held("another sword")
    site.until(lambda: site.image(other)["moderation"]["verdict"] == "refused")
    assert (len(site.endpoint.requests), len(site.trail())) == (3, 2)


def test_a_key_that_is_missing_stops_the_process_with_the_reason(site: Site) -> None:
    site.stack.start("second_look", "keyless")
    assert site.stack.processes["keyless"].wait(60) == 2
    assert "second_look.api_key_env: the environment has no LOOK_KEY" in site.stack.logs()

"""A real picture of the embedded model, held by a list that holds its hash: seen by its owner as in review, released, refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import openai
import pytest

from client import Client
from contracts.tenancy import new_token
from moderation.hashes.importing import import_list
from tests.integration.conftest import ROOT, Stack
from tests.integration.searching import until
from tests.webhooks.conftest import receiving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROMPT: Final = "a red apple"
SEED: Final = 7
POLICY: Final = """
name: house
version: {version}
pictures: {{lists: [{{file: known.pdq, category: weapons}}]}}
words: {{lists: [{{file: 'builtin:lists/weapons.en.txt', category: weapons, language: en}}]}}
rules: {{weapons: {{hashes: {action}}}}}
"""
SWORDS: Final = "words: review, "
"""Holds every image whose prompt names a weapon."""


class Held:
    """The platform, its policy, and a reviewer. With `more` rules, other layers act too."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        body = {"tenant": "desk", "name": "Ada", "scopes": ["moderate"]}
        key = stack.http.post("/v1/keys", json=body).json()["key"]
        self.reviewer = Client(stack.url, api_key=key)

    def policy(self, version: int, action: str, more: str = "") -> None:
        """Writes a version of the policy, and waits until API and worker have it."""
        beside = self.folder / "policy.new"
        text = POLICY.format(version=version, action=action)
        beside.write_text(text.replace("hashes:", f"{more}hashes:"))
        os.replace(beside, self.folder / "policy.yaml")
        for name in ("api", "worker"):
            until(partial(self._has_taken_over, name, version), self.stack)

    def _has_taken_over(self, name: str, version: int) -> bool:
        logs = [path.read_text() for path in self.stack.folder.glob(f"{name}*/output.log")]
        return any(
            "policy_in_force" in line and f"house@{version}" in line
            for log in logs
            for line in log.splitlines()
        )

    def draw(self, **fields: Any) -> dict[str, Any]:
        return self.stack.ended(self.stack.submit(prompt=PROMPT, seed=SEED, **fields))

    def picture(self, job: dict[str, Any]) -> bytes:
        answer = self.stack.http.get(job["images"][0]["url"])
        assert answer.status_code == 200
        return answer.content


def listed(folder: Path, *files: bytes) -> None:
    rows = [f"Samples,sha256,{hashlib.sha256(each).hexdigest()},X," for each in files]
    (folder / "known.csv").write_text("\n".join(["collab,signal_type,signal_str,category,tags", *rows, ""]))
    import_list(folder / "known.csv", folder / "known.pdq", "weapons")


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    folder = tmp_path_factory.mktemp("held")
    listed(folder, b"a file that nobody draws")
    (folder / "policy.yaml").write_text(POLICY.format(version=1, action="review"))
    environ = {
        "DARKROOM_MODEL": str(ROOT / "models" / "emoji-turbo"),
        "DARKROOM_MODERATION": str(folder / "policy.yaml"),
        "DARKROOM_MODERATION_LOG_KEY": "a key that signs",
        "DARKROOM_ADMIN_KEY": new_token(),
        "DARKROOM_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
        "DARKROOM_JOB_TTL_S": "60",
    }
    with Stack.open(environ, folder / "platform", broker=False, webhooks=True) as stack:
        running = Held(stack, folder)
        yield running
        running.reviewer.close()


def test_a_picture_is_held_released_refused_and_told(held: Held) -> None:
    stack = held.stack
    before = held.draw()
    assert before["images"][0]["moderation"]["verdict"] == "passed"
    data = held.picture(before)
    name = before["images"][0]["url"].rpartition("/")[2]
    # A platform that has never shown it.
    (Path(stack.environ["DARKROOM_BLOB_DIR"]) / name[:2] / name).unlink()
    listed(held.folder, data)
    held.policy(2, "review")
    with receiving() as receiver:
        job = held.draw(webhook={"url": receiver.url})
        assert job["status"] == "succeeded", "a result without its file is no hit"
        (image,) = job["images"]
        assert (image["url"], image["moderation"]["verdict"]) == (None, "in_review")
        assert stack.http.get(f"/v1/images/{name}").status_code == 404
        receiver.wait_for(1)
        assert json.loads(receiver.requests[0][1])["data"]["images"][0]["url"] is None

        (review,) = held.reviewer.reviews().data
        assert (review.name, review.prompt, review.severity) == (name, PROMPT, 3)
        assert held.reviewer.review_picture(name) == data
        events: list[str] = []

        def follow() -> None:
            with stack.http.stream("GET", f"{job['urls']['events']}?until=reviewed", timeout=60) as stream:
                events.extend(stream.iter_lines())

        following = threading.Thread(target=follow)
        following.start()
        assert held.reviewer.decide(name, "release", note="an apple").state == "released"
        following.join(60)
        assert not following.is_alive(), stack.logs()
        told = json.loads(events[events.index("event: moderated") + 2].removeprefix("data: "))
        assert told["images"][0]["url"].endswith(name)
        receiver.wait_for(2)
        second = json.loads(receiver.requests[1][1])
        assert second["type"] == "job.moderated"
        assert second["data"]["images"][0]["moderation"]["verdict"] == "released"
        assert len(set(receiver.ids)) == 2
    shown = stack.http.get(job["urls"]["self"]).json()
    assert held.picture(shown) == data
    again = held.draw(cache="refresh")
    assert again["images"][0]["moderation"]["verdict"] == "released", "people are not asked twice"

    held.reviewer.undo(name)
    for each in (job, again):
        verdict = stack.http.get(each["urls"]["self"]).json()["images"][0]["moderation"]["verdict"]
        assert verdict in ("in_review", "released")
    assert stack.http.get(f"/v1/images/{name}").status_code == 404
    held.reviewer.decide(name, "refuse")
    image = stack.http.get(job["urls"]["self"]).json()["images"][0]
    assert (image["url"], image["moderation"]["verdict"]) == (None, "refused")
    failed = held.draw(cache="refresh")
    assert (failed["status"], failed["error"]["code"]) == ("failed", "content_blocked")
    trail = held.reviewer.moderation_log()
    assert [entry.what["action"] for entry in trail.data] == ["release", "undo", "refuse"]
    assert trail.fault is None


def test_openais_client_meets_a_refusal_as_it_expects(held: Held) -> None:
    held.policy(3, "block")
    with (
        openai.OpenAI(
            base_url=f"{held.stack.url}/v1", api_key=held.stack.environ["DARKROOM_ADMIN_KEY"], max_retries=0
        ) as client,
        pytest.raises(openai.BadRequestError) as refused,
    ):
        client.images.generate(
            prompt=PROMPT, model="emoji-turbo", size="64x64", extra_body={"seed": SEED}, timeout=120
        )
    assert refused.value.code == "content_policy_violation"


def test_no_log_line_has_what_only_moderators_may_know(held: Held) -> None:
    logs = held.stack.logs()
    assert re.search("picture|image", logs)
    assert PROMPT not in logs


@pytest.mark.parametrize("victim", ["api", "worker-1"])
def test_a_held_picture_is_neither_lost_nor_shown_when_a_process_is_killed(held: Held, victim: str) -> None:
    """A policy holds every picture of a sword. A process is killed while six of them are drawn, and all the time every
    address that could show one is asked."""
    stack = held.stack
    held.policy({"api": 4, "worker-1": 5}[victim], "review", SWORDS)
    jobs = [stack.submit(prompt=f"a sword for {victim}", seed=seed, cache="off") for seed in range(6)]
    stack.kill(victim, signal.SIGKILL)
    stack.start({"api": "api", "worker-1": "worker"}[victim], f"{victim}-again")
    stack.wait_ready(1)
    shown: list[str] = []
    while any(job["status"] in ("queued", "running") for job in jobs):
        jobs = [stack.http.get(job["urls"]["self"], headers={"Prefer": "wait=1"}).json() for job in jobs]
        shown += [image["url"] for job in jobs for image in job["images"] if image["url"]]
        for review in held.reviewer.reviews(limit=100).data:
            for name in (review.name, f"held/{review.name}"):
                answer = stack.http.get(f"/v1/images/{name}")
                shown += [name] if answer.status_code != 404 else []
    assert shown == []
    assert {job["status"] for job in jobs} == {"succeeded"}, stack.logs()
    reviews = held.reviewer.reviews(limit=100).data
    waiting = [job.id for review in reviews for job in held.reviewer.review(review.name).jobs]
    assert {waiting.count(job["id"]) for job in jobs} == {1}, "each is there for a person, once"

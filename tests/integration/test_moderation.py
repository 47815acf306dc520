"""A policy on the real platform: blocked, tagged, taken over while it runs, broken while it runs, a layer away."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from benchmarks.lib.platform import FAKE
from cli.platform import started
from cli.services import process
from client import Client, ContentBlocked, Unavailable
from contracts.errors import SettingsError
from tests.integration.conftest import Stack
from tests.integration.searching import until
from tests.second_look.fake_endpoint import MODEL, endpoint_running, scored

POLICY = """
name: shop
version: {version}
words:
  lists: [{{file: 'builtin:lists/weapons.en.txt', category: weapons, language: en}}]
  exceptions: ['builtin:lists/harmless.en.txt']
meaning: {{heads: [{{file: 'builtin:heads/weapons.prompts.json'}}]}}
rules: {{weapons: {{words: {words}, meaning: {{block: 0.8}}}}}}
when_away: {{meaning: {meaning}}}
"""
MEANT = "a steel blade of a gladiator, ready to strike"
"""Names no banned word."""


class Moderated:
    """The platform, its policy, and the process that reads meaning."""

    def __init__(self, stack: Stack, path: Path) -> None:
        self.stack = stack
        self.path = path
        self._number = 0

    def write(self, text: str) -> None:
        beside = self.path.with_suffix(".new")
        beside.write_text(text)
        os.replace(beside, self.path)

    def policy(self, version: int, words: str = "block", meaning: str = "closed") -> None:
        self.write(POLICY.format(version=version, words=words, meaning=meaning))
        until(
            lambda: self.metric(f'darkroom_moderation_policy_info{{policy="shop@{version}"}}') == 1,
            self.stack,
        )

    def metric(self, series: str) -> float | None:
        found = re.search(rf"^{re.escape(series)} (\S+)$", self.stack.http.get("/metrics").text, re.MULTILINE)
        return None if found is None else float(found[1])

    def status(self, prompt: str) -> int:
        """Of a prompt that was never sent before: what was found is remembered."""
        self._number += 1
        return int(self.answer(f"{prompt}, number {self._number}").status_code)

    def answer(self, prompt: str) -> Any:
        return self.stack.http.post("/v1/jobs", json={"prompt": prompt})


@pytest.fixture(scope="module")
def moderated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moderated]:
    folder = tmp_path_factory.mktemp("moderated")
    path, port = folder / "policy.yaml", process.free_port()
    path.write_text(POLICY.format(version=1, words="block", meaning="closed"))
    environ = {
        **FAKE,
        "DARKROOM_MODERATION": str(path),
        "DARKROOM_MODERATION_URL": f"http://127.0.0.1:{port}",
        "DARKROOM_MODERATION_PORT": str(port),
        "DARKROOM_MODERATION_TOKEN": "token",
        "DARKROOM_MODERATION_TIMEOUT_S": "20",
    }
    with Stack.open(environ, folder, broker=False) as stack:
        stack.start("moderation", "moderation")
        made = Moderated(stack, path)
        until(lambda: made.status("a pear") == 202, stack)
        yield made


def test_a_named_and_a_described_weapon_are_refused_and_a_pear_is_drawn(moderated: Moderated) -> None:
    for prompt in ("a knight with a sw0rd", MEANT):
        error = moderated.answer(prompt).json()["error"]
        assert (error["code"], error["param"], error["details"]) == (
            "content_blocked",
            "prompt",
            {"category": "weapons"},
        )
    assert moderated.stack.ended(moderated.stack.submit(prompt="a green pear"))["status"] == "succeeded"
    log = moderated.stack.logs()
    assert "content_blocked" in log
    assert "sw0rd" not in log
    assert "gladiator" not in log


def test_openai_s_client_meets_a_refusal_as_it_expects(moderated: Moderated) -> None:
    client = openai.OpenAI(base_url=f"{moderated.stack.url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(prompt="a sword", model="fake")
    assert refused.value.code == "content_policy_violation"


def test_a_policy_is_taken_over_while_the_platform_runs(moderated: Moderated) -> None:
    moderated.policy(2, words="tag")
    assert moderated.status("a dagger") == 422, "its meaning blocks it"
    moderated.write(POLICY.format(version=3, words="tag", meaning="closed").replace("block: 0.8", "tag: 0.8"))
    until(lambda: moderated.status("a dagger") == 202, moderated.stack)
    assert moderated.stack.ended(moderated.stack.submit(prompt="a red dagger"))["status"] == "succeeded"
    moderated.policy(4)
    assert moderated.status("a dagger") == 422


def test_a_policy_that_is_broken_while_it_runs_changes_nothing(moderated: Moderated) -> None:
    moderated.write("name: shop\nversion: 5\nrules: {weapons: {words: blok}}\n")
    until(lambda: moderated.metric("darkroom_moderation_policy_bad") == 1, moderated.stack)
    assert moderated.status("a sword") == 422
    assert "rules.weapons.words: must be 'allow', 'tag', 'review' or 'block'" in moderated.stack.logs()
    moderated.policy(6)
    assert moderated.metric("darkroom_moderation_policy_bad") == 0


def test_a_layer_that_is_away_lets_nothing_pass_until_the_policy_says_so(moderated: Moderated) -> None:
    stack = moderated.stack
    stack.processes["moderation"].send_signal(signal.SIGKILL)
    stack.processes["moderation"].wait(10)
    response = moderated.answer("a pear on a table")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "moderation_unavailable")
    assert int(response.headers["retry-after"]) >= 1
    assert moderated.status("a sword") == 422, "the other layer looks on"
    assert (moderated.metric('darkroom_moderation_away_total{cause="away",layer="meaning"}') or 0) > 0
    moderated.policy(7, meaning="open")
    assert moderated.status("a pear") == 202
    assert moderated.status(MEANT) == 202
    moderated.policy(8)
    stack.start("moderation", "moderation")
    until(lambda: moderated.status("a pear") == 202, stack)
    assert moderated.status(MEANT) == 422


def test_darkroom_up_starts_a_process_for_second_looks(tmp_path: Path) -> None:
    """A model releases a held image, with nothing else to start."""
    (tmp_path / "words.txt").write_text("sword\n")
    path = tmp_path / "policy.yaml"
    with endpoint_running() as endpoint:
        endpoint.answers = [scored({"weapons": 0.0})]
        path.write_text(
            "name: shop\nversion: 1\nwords: {lists: [{file: words.txt, category: weapons}]}\n"
            f"second_look: {{url: '{endpoint.url}', model: {MODEL}, may: [release]}}\n"
            "rules: {weapons: {words: review, second_look: {review: 0.2, block: 0.8}}}\n"
        )
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")},
            **FAKE,
            "DARKROOM_MODERATION": str(path),
        }
        with started(tmp_path / "site", 1, environ, webhooks=False) as platform:
            assert [child.name for child in platform.children] == ["api", "worker-1", "second_look"]
            platform.wait_ready()
            with Client(platform.url, api_key=platform.key) as darkroom:
                job = darkroom.submit("a sword")
                deadline = time.monotonic() + 120
                while not (images := darkroom.job(job.id).images) or images[0].url is None:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)


def test_darkroom_up_starts_what_the_policy_needs(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY.format(version=1, words="block", meaning="closed"))
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")},
        **FAKE,
        "DARKROOM_MODERATION": str(path),
        "DARKROOM_MODERATION_TIMEOUT_S": "20",
    }
    with started(tmp_path / "site", 1, environ, webhooks=False) as platform:
        assert [child.name for child in platform.children] == ["api", "worker-1", "moderation"]
        platform.wait_ready()
        with Client(platform.url, api_key=platform.key) as darkroom:
            deadline = time.monotonic() + 60
            while True:
                try:
                    assert darkroom.submit("a green pear").status
                    break
                except Unavailable:  # its model is being loaded
                    assert time.monotonic() < deadline
            for prompt in ("a sword", MEANT):
                with pytest.raises(ContentBlocked) as blocked:
                    darkroom.submit(prompt)
                assert blocked.value.category == "weapons"
    path.write_text("name: shop\n")
    with (
        pytest.raises(SettingsError, match=r"DARKROOM_MODERATION: .*rules: is missing"),
        started(tmp_path / "other", 1, environ),
    ):
        pass

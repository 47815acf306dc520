"""Under a policy, images of another prompt answer only while that prompt passes the policy in force."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cli.services import process
from contracts.tenancy import new_token
from tests.integration.conftest import Stack
from tests.integration.searching import until
from tests.integration.test_similar_answers import CLIP, asked, least_floor

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]

POLICY = """
name: shop
version: {version}
words: {{lists: [{{file: banned.txt, category: fruit}}]}}
rules: {{fruit: {{words: block}}}}
"""


def write(folder: Path, version: int, banned: str) -> Path:
    (folder / "banned.txt").write_text(f"{banned}\n")
    (folder / "policy.new").write_text(POLICY.format(version=version))
    os.replace(folder / "policy.new", folder / "policy.yaml")
    return folder / "policy.yaml"


def test_a_prompt_that_is_banned_meanwhile_answers_no_other(tmp_path: Path, redis_server: Any) -> None:
    """Its images were judged when they were drawn, and pass. The words that they were drawn from do not."""
    port = process.free_port()
    settings = {
        "DARKROOM_ADMIN_KEY": new_token(),
        "DARKROOM_CLIP": CLIP,
        "DARKROOM_SEARCH_URL": f"http://127.0.0.1:{port}",
        "DARKROOM_SEARCH_PORT": str(port),
        "DARKROOM_SEARCH_INDEX": f"embedded:{tmp_path / 'index'}",
        "DARKROOM_SIMILAR_FLOOR": str(least_floor()),
        "DARKROOM_MODERATION": str(write(tmp_path, 1, "a green pear")),
    }
    with Stack.open(settings, tmp_path / "platform", redis_server, broker=False) as stack:
        stack.start("search", "search")
        until(lambda: stack.http.get("/v1/search").status_code == 200, stack)
        drawn = asked(stack, "a red apple")[1]
        assert asked(stack, "one red apple")[1]["images"] == drawn["images"]
        write(tmp_path, 2, "a red apple")
        banned = {"prompt": "a red apple", "cache": "similar"}
        until(lambda: stack.http.post("/v1/jobs", json=banned).status_code == 422, stack)
        job = asked(stack, "one red apple")[1]
        assert (job["cache"], job["similar"]) == ("miss", None)
        assert job["images"] != drawn["images"]

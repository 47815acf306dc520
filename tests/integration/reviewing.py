"""A platform with held images, and a browser at its page of reviews."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Page, expect

from contracts.tenancy import new_token
from moderation.hashes.importing import import_list
from tests.integration.conftest import ROOT, Stack
from tests.integration.test_playground import DESKTOP, opened

REVIEWS: Final = "/v1/admin/moderation/reviews"
HELD: Final = {
    "weapons": (
        "a kitchen knife on a white background",
        "a pistol on a yellow background",
        "a bow and arrow on a blue background",
        "a bomb on a pink background",
        "a dagger on a green background",
        "a shield on a blue background",
        "an axe on a yellow background",
    ),
    "violence": (
        "a boxing glove on a pink background",
        "a firecracker on a white background",
        "a boxing glove on a blue background",
    ),
}
"""What the policy holds, by category."""
POLICY: Final = """
name: house
version: 1
pictures:
  lists:
    - {file: weapons.pdq, category: weapons}
    - {file: violence.pdq, category: violence}
rules:
  weapons: {hashes: review}
  violence: {hashes: review}
"""
SEED: Final = 7
ADDRESSES: Final = """
window.addresses = { made: 0, open: new Set() };
const { createObjectURL, revokeObjectURL } = URL;
URL.createObjectURL = (data) => {
  const address = createObjectURL.call(URL, data);
  window.addresses.made += 1;
  window.addresses.open.add(address);
  return address;
};
URL.revokeObjectURL = (address) => {
  window.addresses.open.delete(address);
  revokeObjectURL.call(URL, address);
};
"""
"""Counts the blob: addresses of a page."""


@dataclass
class Desk:
    """The platform, and what its reviewers and owners do outside the page."""

    stack: Stack

    def key(self, name: str) -> str:
        """A new reviewer's key."""
        return self.stack.key("desk", name=name, scopes=["moderate"])

    def held(self, prompt: str, **more: Any) -> dict[str, Any]:
        """A job whose image is held."""
        job = self.stack.ended(self.stack.submit(prompt=prompt, seed=SEED, **more))
        assert job["images"][0]["url"] is None, job
        return job

    def image(self, job: dict[str, Any]) -> dict[str, Any]:
        """The image of the job, as its owner sees it now."""
        image: dict[str, Any] = self.stack.http.get(job["urls"]["self"]).json()["images"][0]
        return image

    def waiting(self, key: str, **query: Any) -> list[dict[str, Any]]:
        answer = self.stack.http.get(REVIEWS, params=query, headers={"Authorization": f"Bearer {key}"})
        reviews: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
        return reviews

    def act(self, key: str, prompt: str, action: str) -> None:
        """Does as a reviewer at another desk."""
        (name,) = [each["name"] for each in self.waiting(key, limit=100) if each["prompt"] == prompt]
        headers = {"Authorization": f"Bearer {key}"}
        self.stack.http.post(f"{REVIEWS}/{name}/{action}", headers=headers).raise_for_status()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, redis_server: Any) -> Iterator[Desk]:
    """The pictures are drawn once to learn their hashes. Then the platform starts again, with the policy."""
    folder = tmp_path_factory.mktemp("desk")
    environ = {
        "DARKROOM_ADMIN_KEY": new_token(),
        "DARKROOM_CLIP": str(ROOT / "models" / "emoji-clip"),
        "DARKROOM_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
    }
    with Stack.open(environ, folder, redis_server, broker=False, webhooks=True) as stack:
        for category, prompts in HELD.items():
            jobs = [stack.ended(stack.submit(prompt=prompt, seed=SEED)) for prompt in prompts]
            names = [job["images"][0]["url"].split("/")[-1] for job in jobs]
            rows = [f"Samples,sha256,{name.split('.')[0]},X,\n" for name in names]
            source = folder / f"{category}.csv"
            source.write_text("collab,signal_type,signal_str,category,tags\n" + "".join(rows))
            import_list(source, folder / f"{category}.pdq", category)
        (folder / "policy.yaml").write_text(POLICY)
        stack.end()
        # Nothing of before is served by the platform with the policy.
        stack.environ |= {
            "DARKROOM_MODERATION": str(folder / "policy.yaml"),
            "DARKROOM_BLOB_DIR": str(folder / "blobs-held"),
        }
        for module, name in (("api", "api"), ("worker", "worker-1"), ("webhooks", "webhooks")):
            stack.start(module, name)
        stack.wait_ready(1, all_live=True)
        yield Desk(stack)


@pytest.fixture
def page(browser: Browser, desk: Desk) -> Iterator[Page]:
    yield from opened(browser, desk.stack, viewport=DESKTOP)


def sign_in(page: Page, key: str, address: str = "/review") -> None:
    page.goto(address)
    field = page.get_by_label("API key")
    expect(field).to_be_focused()
    page.keyboard.type(key)
    page.keyboard.press("Enter")
    expect(page.locator("#key-form")).to_be_hidden()


def walk_to(page: Page, prompt: str) -> None:
    """By the keyboard: down the queue to the image of that prompt, until it is there."""
    for _ in range(30):
        if page.locator("#prompt").text_content() == prompt:
            break
        page.keyboard.press("j")
    expect(page.locator("#prompt")).to_have_text(prompt)
    expect(page.locator("#picture")).to_be_visible()


@contextmanager
def following(desk: Desk, job: dict[str, Any]) -> Iterator[list[str]]:
    """The events of the job until people have decided. All are there at the end of the block."""
    lines: list[str] = []
    begun = threading.Event()

    def follow() -> None:
        with desk.stack.http.stream("GET", job["urls"]["events"], params={"until": "reviewed"}) as events:
            for line in events.iter_lines():
                lines.append(line)
                begun.set()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    assert begun.wait(60)
    yield lines
    thread.join(60)
    assert not thread.is_alive(), lines

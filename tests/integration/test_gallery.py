"""The gallery in a real browser: a search by words, a similar search, an image of one's own, many images.

The pictures of it go to docs/ where DARKROOM_SCREENSHOTS is set; otherwise to a temporary folder.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from cli.services import process
from tests.integration.conftest import READY_S, ROOT, Stack
from tests.integration.test_playground import DESKTOP, PHONE, browser, opened, shoot

pytestmark = pytest.mark.slow

__all__ = ["browser"]

THINGS = ("apple", "rocket", "cat", "umbrella", "pizza", "guitar", "snowman", "butterfly", "house", "pear")
COLOURS = ("red", "yellow", "blue", "green", "pink", "white", "purple")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_server: Any) -> Iterator[Stack]:
    port = process.free_port()
    folder = tmp_path_factory.mktemp("gallery")
    settings = {
        "DARKROOM_CLIP": str(ROOT / "models" / "emoji-clip"),
        "DARKROOM_SEARCH_URL": f"http://127.0.0.1:{port}",
        "DARKROOM_SEARCH_PORT": str(port),
        "DARKROOM_SEARCH_INDEX": f"embedded:{folder / 'index'}",
    }
    with Stack.open(settings, folder, redis_server, broker=False) as running:
        running.start("search", "search")
        jobs = [
            running.submit(
                prompt=f"{'an' if thing[0] in 'aeiou' else 'a'} {thing} on a {colour} background", seed=1
            )
            for thing in THINGS
            for colour in COLOURS
        ]
        for job in jobs:
            assert running.ended(job)["status"] == "succeeded"
        until = time.monotonic() + READY_S
        while len(running.http.get("/v1/search?limit=100").json().get("data", ())) < len(jobs):
            assert time.monotonic() < until, running.logs()
            time.sleep(0.2)
        yield running


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    for made in opened(browser, stack, viewport=DESKTOP):
        made.goto("/gallery")
        yield made


def test_a_person_finds_images(page: Page, stack: Stack, tmp_path: Path) -> None:
    hits = page.locator("#hits li")
    # All images, page after page, as a person scrolls.
    expect(page.locator("#status")).to_contain_text("image")
    page.locator("#more").scroll_into_view_if_needed()
    expect(hits).to_have_count(len(THINGS) * len(COLOURS))
    expect(page.locator("#status")).to_have_text(f"{len(THINGS) * len(COLOURS)} images.")

    page.get_by_label("What the image shows").press_sequentially("a rocket", delay=20)
    expect(page.locator("#status")).not_to_have_text(f"{len(THINGS) * len(COLOURS)} images.")
    for at in range(len(COLOURS)):
        expect(hits.nth(at)).to_contain_text("a rocket")
    page.wait_for_function(
        "[...document.querySelectorAll('#hits img')].slice(0, 7).every((each) => each.complete)"
    )
    shoot(page, tmp_path, "gallery", whole=False)
    assert "q=a+rocket" in page.url

    hits.first.get_by_role("button").click()
    expect(page.get_by_role("dialog")).to_contain_text("vector: place")
    # What was chosen counts in the next search for these words.
    until = time.monotonic() + READY_S
    while "clicks" not in stack.http.get("/v1/search?q=a+rocket").json()["data"][0]["why"]:
        assert time.monotonic() < until, stack.logs()
        time.sleep(0.1)
    page.get_by_role("button", name="Similar images").click()
    expect(page.locator("#by-text")).to_have_text("Images like this one")
    expect(hits.first).to_contain_text(_like_the_first_of(stack, "a rocket"))
    shoot(page, tmp_path, "gallery-similar", whole=False)
    page.reload()  # the address keeps what was searched
    expect(page.locator("#by-text")).to_have_text("Images like this one")
    page.get_by_role("button", name="Clear").click()
    expect(hits).not_to_have_count(0)


def _like_the_first_of(stack: Stack, words: str) -> str:
    """The prompt of the image that is most like the first hit for `words`."""
    first = stack.http.get("/v1/search", params={"q": words, "limit": 1}).json()["data"][0]
    prompt: str = stack.http.get(f"/v1/images/{first['name']}/similar").json()["data"][0]["prompt"]
    return prompt


def test_an_image_of_ones_own(page: Page, stack: Stack, tmp_path: Path) -> None:
    pizza = stack.http.get("/v1/search", params={"q": "a pizza", "limit": 1}).json()["data"][0]
    drawn = Image.open(io.BytesIO(stack.http.get(pizza["url"]).content)).convert("RGB")
    drawn.resize((200, 200)).save(tmp_path / "mine.jpg", quality=70)
    page.locator("#file").set_input_files(tmp_path / "mine.jpg")
    expect(page.locator("#by-text")).to_have_text("Images like yours")
    expect(page.locator("#hits li").first).to_contain_text("a pizza")
    (tmp_path / "none.png").write_bytes(b"no image")
    page.locator("#file").set_input_files(tmp_path / "none.png")
    expect(page.locator("#status")).to_contain_text("image must be a PNG, JPEG or WebP")


def test_filters_say_what_is_wrong_at_their_field(page: Page) -> None:
    page.get_by_text("Filters").click()
    page.get_by_label("Seed").fill("-1")
    page.get_by_label("Seed").blur()
    expect(page.locator("#seed")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Seed").fill("")
    page.get_by_label("From", exact=True).select_option("brought in")
    expect(page.locator("#status")).to_have_text("Nothing was found.")


def test_by_keyboard_on_a_phone(browser: Browser, stack: Stack, tmp_path: Path) -> None:
    for page in opened(browser, stack, viewport=PHONE, has_touch=True):
        page.goto("/gallery")
        expect(page.locator("#hits li").first).to_be_visible()
        page.keyboard.type("a cat")
        expect(page.locator("#hits li").first).to_contain_text("a cat")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_contain_text("a cat")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        page.keyboard.press("/")
        expect(page.locator("#q")).to_be_focused()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off"
        shoot(page, tmp_path, "gallery-phone", whole=False)


def test_ten_thousand_images_scroll(page: Page) -> None:
    """The list stays quick: what is not seen is not laid out."""
    expect(page.locator("#hits li").first).to_be_visible()
    took = page.evaluate(
        """async () => {
          const list = document.getElementById('hits');
          const some = list.firstElementChild;
          for (let each = 0; each < 10000; each += 1) list.append(some.cloneNode(true));
          await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
          const begun = performance.now();
          for (let each = 0; each < 20; each += 1) {
            scrollTo(0, Math.random() * document.body.scrollHeight);
            await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
          }
          return (performance.now() - begun) / 20;
        }"""
    )
    assert took < 1000, f"{took:.0f} ms for one jump"

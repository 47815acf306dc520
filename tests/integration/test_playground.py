"""A person's walk through the playground in a real browser, on a real deployment, with the embedded model.

The pictures of it go to docs/ where DARKROOM_SCREENSHOTS is set; otherwise to a temporary folder.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from benchmarks.lib.platform import FAKE
from cli.services import process
from cli.services.browser import find_chromium
from contracts.tenancy import new_token
from tests.integration.conftest import ROOT, Stack

pytestmark = pytest.mark.slow

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP: Any = {"width": 1200, "height": 900}
PHONE: Any = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_server: Any, rabbit_server: Any) -> Iterator[Stack]:
    with Stack.open({}, tmp_path_factory.mktemp("page"), redis_server, rabbit_server) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    yield from opened(browser, stack, viewport=DESKTOP)


def opened(
    browser: Browser, stack: Stack, provoked: str = "the server responded with a status of 4", **options: Any
) -> Iterator[Page]:
    """A fresh browser profile at the page. Anything that goes wrong in it fails the test, but for what is `provoked`."""
    context = browser.new_context(base_url=stack.url, color_scheme="dark", **options)
    context.set_default_timeout(30_000)
    made = context.new_page()
    wrong: list[str] = []
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    made.goto("/")
    yield made
    context.close()
    assert [each for each in wrong if provoked not in each] == []


def shoot(page: Page, folder: Path, name: str, *, whole: bool = True) -> None:
    """Keeps a picture of the page; `whole`: also what is below the edge of the window."""
    kept = ROOT / "docs" if os.environ.get("DARKROOM_SCREENSHOTS") else folder
    page.screenshot(path=kept / f"{name}.png", full_page=whole)


def develop(page: Page, prompt: str) -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Develop").click()
    expect(page.locator("#title")).to_have_text(prompt, timeout=30_000)
    expect(page.locator("#status")).to_contain_text("Done in")


def test_a_persons_walk(page: Page, tmp_path: Path) -> None:
    expect(page.locator("#serving")).to_contain_text("emoji-turbo on 1 worker")
    develop(page, "a rocket on a yellow background")
    expect(page.locator("#badge")).to_have_text("freshly developed")
    page.wait_for_function("document.querySelector('#pictures img')?.naturalWidth === 64")
    for prompt in (
        "a snowman on a blue background",
        "a pizza on a green background",
        "an umbrella on a pink background",
    ):
        develop(page, prompt)
    develop(page, "A  Rocket on a yellow background")
    expect(page.locator("#badge")).to_have_text("from the cache")
    expect(page.locator("#history li")).to_have_count(4)
    page.wait_for_timeout(1000)  # the picture fades in
    shoot(page, tmp_path, "playground")
    page.reload()
    expect(page.locator("#history li")).to_have_count(4)
    page.locator("#history").get_by_role("button", name="a snowman").click()
    expect(page.locator("#title")).to_have_text("a snowman on a blue background")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#past")).to_be_hidden()


def test_a_phone(browser: Browser, stack: Stack, tmp_path: Path) -> None:
    for page in opened(browser, stack, viewport=PHONE, device_scale_factor=2, is_mobile=True, has_touch=True):
        page.get_by_role("button", name="guitar").tap()
        expect(page.locator("#status")).to_contain_text("Done in")
        expect(page.locator("#pictures")).to_be_in_viewport(ratio=0.9)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide == 0, "nothing to scroll sideways"
        for button in page.locator("button:visible").all():
            box = button.bounding_box()
            assert box is not None
            assert box["height"] >= 24, "a finger must find it"
        page.wait_for_timeout(1000)
        shoot(page, tmp_path, "playground-phone")


def test_by_keyboard_alone(page: Page) -> None:
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.type("a pizza on a green background")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#title")).to_have_text("a pizza on a green background")
    names = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        names.add(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert {"go", "share", "download", "again", "forget"} <= names
    for control in page.locator("input:visible, select:visible, textarea:visible").all():
        assert control.evaluate("each => each.labels.length || each.getAttribute('aria-label')")


def test_steps_seed_and_a_shared_link(page: Page, browser: Browser, stack: Stack) -> None:
    page.get_by_text("Settings").click()
    page.get_by_label("Steps").fill("1")
    page.get_by_label("Seed", exact=True).fill("11")
    page.get_by_label("Width").fill("96")
    develop(page, "a guitar & a key, 100 %")
    expect(page.locator("#detail")).to_contain_text("seed 11, 96 × 64")
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#status")).to_contain_text("link")
    address = page.url
    assert "#prompt=" in address
    picture = page.locator("#pictures img").get_attribute("src")
    context = browser.new_context()
    other = context.new_page()
    other.goto(address)
    expect(other.locator("#pictures img")).to_have_attribute("src", picture or "")
    expect(other.locator("#badge")).to_have_text("from the cache")
    context.close()
    page.get_by_role("button", name="Another one").click()
    expect(page.locator("#detail")).not_to_contain_text("seed 11,")


def test_what_is_wrong_is_said_at_its_field(page: Page) -> None:
    page.get_by_text("Settings").click()
    page.get_by_label("Width").fill("17")
    page.get_by_role("button", name="Develop").click()
    expect(page.locator("#status")).to_contain_text("width must be")
    expect(page.get_by_label("Width")).to_be_focused()
    page.get_by_label("Width").fill("64")
    page.get_by_label("Steps").fill("9")
    page.get_by_role("button", name="Develop").click()
    expect(page.locator("#status")).to_contain_text("num_inference_steps must be between 1 and 8")
    expect(page.get_by_label("Steps")).to_be_focused()
    page.get_by_label("Steps").fill("1")
    develop(page, "a key on a white background")


def test_the_page_says_what_the_model_can_do(page: Page) -> None:
    page.get_by_text("Settings").click()
    ability = page.locator("#ability")
    expect(ability).to_contain_text("emoji-turbo takes up to 8 steps, may start from a picture")
    expect(ability).to_contain_text("reads no negative prompt")


def test_a_job_in_the_queue_says_so_and_can_be_canceled(page: Page, stack: Stack) -> None:
    stack.kill("worker-1", signal.SIGSTOP)
    try:
        page.get_by_label("Prompt", exact=True).fill("a mushroom on a blue background")
        page.get_by_role("button", name="Develop").click()
        expect(page.locator("#status")).to_have_text(re.compile("In the queue"))
        expect(page.locator("#bar")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#status")).to_have_text("Canceled.")
    finally:
        stack.kill("worker-1", signal.SIGCONT)


def test_a_server_that_wants_a_key_is_given_one(browser: Browser, stack: Stack) -> None:
    key, port = new_token(), process.free_port()
    stack.start(
        "api", "api-keys", DARKROOM_PORT=str(port), DARKROOM_ADMIN_KEY=key, DARKROOM_ALLOW_ANONYMOUS="false"
    )
    process.wait_until(
        lambda: process.answers(port, b"GET /readyz HTTP/1.0\r\n\r\n", b"HTTP/1.0 200"),
        stack.processes["api-keys"],
        stack.folder / "api-keys",
        60.0,
    )
    for page in opened(browser, stack, viewport=DESKTOP):
        page.goto(f"http://127.0.0.1:{port}/")
        field = page.get_by_label("API key")
        expect(field).to_be_focused()
        expect(page.locator("#status")).to_contain_text("needs an API key")
        field.fill("dk_" + "A" * 43)
        field.press("Tab")
        expect(page.locator("#status")).to_contain_text("not valid")
        field.fill(key)
        field.press("Tab")
        expect(page.locator("#serving")).to_contain_text("emoji-turbo on 1 worker")
        expect(page.locator("#status")).to_be_empty()
        develop(page, "a snowman on a yellow background")
        page.reload()
        expect(page.locator("#serving")).to_contain_text("emoji-turbo")
        kept = page.evaluate("[JSON.stringify(localStorage), location.href]")
        assert not any(key in each for each in kept), "for this visit alone, and in no address"
        assert page.evaluate("sessionStorage.getItem('darkroom.key')") == key


def test_a_page_that_was_there_before_the_worker_learns_of_it(browser: Browser, tmp_path: Path) -> None:
    """It looks for one less and less often, and not at all while nobody sees it. Time is the test's."""
    with Stack.open(FAKE, tmp_path, broker=False, workers=0) as stack:
        context = browser.new_context(base_url=stack.url)
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda each: asked.append(each.url) if each.url.endswith("/v1/models") else None)
        page.clock.install(time=0)
        page.clock.pause_at(1000)
        page.goto("/#prompt=a+rocket&width=96")
        status = page.locator("#status")
        expect(status).to_have_text("No worker is ready yet. This page waits for one.")
        page.get_by_text("Settings").click()
        settle(page)
        for pause_ms in (1000, 2000, 4000, 8000, 15000, 15000):
            page.clock.run_for(pause_ms - 100)
            before = len(asked)
            with page.expect_response("**/v1/models") as looked:
                page.clock.run_for(100)
            looked.value.finished()
            assert len(asked) == before + 1
            settle(page)
        show(page, hidden=True)
        page.clock.run_for(120_000)
        assert len(asked) == 1 + 6, "nobody sees it"
        with page.expect_response("**/v1/models"):
            show(page, hidden=False)
        settle(page)
        stack.start("worker", "worker-1")
        stack.wait_ready(1)
        with page.expect_response("**/v1/models"):
            page.clock.run_for(15_000)
        expect(page.locator("#serving")).to_have_text("fake on 1 worker")
        expect(page.get_by_label("Model")).to_have_value("fake")
        expect(page.get_by_label("Steps")).to_have_attribute("max", re.compile(r"\d+"))
        # What the link asked for had to wait for a model, and is drawn now.
        expect(page.locator("#title")).to_have_text("a rocket")
        expect(page.locator("#detail")).to_contain_text("96 × ")
        before = len(asked)
        page.clock.run_for(120_000)
        assert len(asked) == before, "there is no more to learn"
        context.close()


def settle(page: Page) -> None:
    """Until the page has done what it does with the answers that it has: a later one has been read too."""
    page.evaluate("fetch('/healthz').then((answer) => answer.json())")


def show(page: Page, *, hidden: bool) -> None:
    """As the browser does when the page's tab is left, or come back to."""
    page.evaluate(
        "hidden => { Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        hidden,
    )


class Cut:
    """Breaks the first connection that it is shown, and no other."""

    done = False

    def once(self, route: Route) -> None:
        if self.done:
            route.continue_()
        else:
            self.done = True
            route.abort("connectionreset")


def test_the_page_survives_a_stream_that_breaks(browser: Browser, stack: Stack) -> None:
    for page in opened(browser, stack, provoked="ERR_CONNECTION_RESET", viewport=DESKTOP):
        cut = Cut()
        page.route("**/events", cut.once)
        develop(page, "an umbrella on a yellow background")
        assert cut.done
        page.wait_for_function("document.querySelector('#pictures img').naturalWidth === 64")


def test_no_script_but_its_own_runs(browser: Browser, stack: Stack) -> None:
    for page in opened(browser, stack, provoked="Content Security Policy", viewport=DESKTOP):
        with page.expect_console_message(lambda message: "Content Security Policy" in message.text):
            page.evaluate(
                "document.body.insertAdjacentHTML('beforeend', '<button onclick=\"window.hacked = 1\">x</button>');"
                "document.body.lastElementChild.click()"
            )
        assert page.evaluate("window.hacked") is None

"""The page of reviewers in a real browser, on a real platform whose policy holds pictures that it has drawn before.

The pictures of it go to docs/ where DARKROOM_SCREENSHOTS is set; otherwise to a temporary folder.
"""

from __future__ import annotations

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from cli.services import process
from contracts.moderation import Finding
from contracts.reviews import SecondLook
from contracts.settings import BackendSettings
from store.stores import open_stores
from tests.integration.reviewing import ADDRESSES, HELD, REVIEWS, Desk, following, sign_in, walk_to
from tests.integration.reviewing import desk as desk
from tests.integration.reviewing import page as page
from tests.integration.searching import until
from tests.integration.test_playground import DESKTOP, PHONE, browser, opened, shoot
from tests.integration.test_playground import show as visible
from tests.webhooks.conftest import receiving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

__all__ = ["browser"]


def test_by_keyboard_alone_an_image_is_released_and_another_refused(
    page: Page, desk: Desk, tmp_path: Path
) -> None:
    first, second = HELD["weapons"][:2]
    page.add_init_script(ADDRESSES)
    asked: list[Any] = []
    page.on("request", lambda each: asked.append(each) if each.url.startswith(desk.stack.url) else None)
    with receiving() as receiver:
        released = desk.held(first, webhook={"url": receiver.url})
        refused = desk.held(second)
        sign_in(page, desk.key("Ada"))
        expect(page.locator("#waiting")).to_contain_text("wait, the oldest for")
        walk_to(page, first)
        expect(page.locator("#facts")).to_contain_text("in review by hashes")
        expect(page.locator("#facts")).to_contain_text("house@1")
        expect(page.locator("#badges")).to_contain_text("weapons")
        picture = page.locator("#picture")
        blurred = re.compile("blur")
        expect(picture).to_have_css("filter", blurred)
        shoot(page, tmp_path, "review")
        page.keyboard.press("v")
        expect(picture).to_have_css("filter", "none")
        assert picture.evaluate("each => each.naturalWidth") == 64
        visible(page, hidden=True)
        expect(picture).to_have_css("filter", blurred)
        visible(page, hidden=False)
        page.keyboard.press("n")
        expect(page.locator("#note")).to_be_focused()
        page.keyboard.type("a tool, r and x are no keys here")
        page.keyboard.press("Escape")
        expect(page.locator("#note")).not_to_be_focused()
        with following(desk, released) as events:
            page.keyboard.press("r")
            expect(page.locator("#status")).to_have_text("Released by Ada. U undoes it.")
        # The next one is blurred again.
        expect(picture).to_have_css("filter", blurred)
        receiver.wait_for(2)
        kinds = {json.loads(body)["type"] for _, body in receiver.requests}
        assert kinds == {"job.succeeded", "job.moderated"}
    assert "event: moderated" in events
    image = desk.image(released)
    assert image["moderation"]["verdict"] == "released"
    assert desk.stack.http.get(image["url"]).status_code == 200
    walk_to(page, second)
    page.keyboard.press("x")
    expect(page.locator("#status")).to_have_text("Refused by Ada. U undoes it.")
    image = desk.image(refused)
    assert (image["url"], image["moderation"]["verdict"]) == (None, "refused")

    # Pictures come by the reviewers' route alone, with the key, and stay nowhere.
    pictures = [each for each in asked if each.url.endswith("/picture")]
    assert pictures
    for each in pictures:
        assert "authorization" in each.headers
        answer = each.response()
        assert answer is None or answer.header_value("cache-control") == "no-store"
    assert not [each.url for each in asked if "/v1/images/" in each.url]
    page.wait_for_function("window.addresses.made > 0 && window.addresses.open.size === 0")
    stored = page.evaluate("Object.keys(localStorage).concat(Object.keys(sessionStorage))")
    assert stored == ["darkroom.moderate"], "for this visit alone"


def test_an_appeal_comes_first_and_a_decision_is_undone(page: Page, desk: Desk, tmp_path: Path) -> None:
    prompt = HELD["weapons"][2]
    job, key = desk.held(prompt), desk.key("Ada")
    desk.held(HELD["violence"][0])
    desk.act(key, prompt, "refuse")
    sign_in(page, key)
    appeal = desk.stack.http.post(
        f"{job['urls']['self']}/images/0/appeal", json={"reason": "It is a toy of wood."}
    )
    assert appeal.status_code == 202, appeal.text
    page.keyboard.press("l")
    first = page.locator("#queue li").first
    expect(first).to_contain_text(prompt)
    expect(first).to_contain_text("appealed")
    page.keyboard.press("Tab")
    focused = page.locator(":focus-visible")
    expect(focused).to_have_css("outline-style", "solid")
    while page.locator("#prompt").text_content() != prompt:
        page.keyboard.press("k")
    expect(page.locator("#appeal")).to_have_text("The owner appeals: It is a toy of wood.")
    expect(page.locator("#picture")).to_be_visible()
    page.keyboard.press("v")
    shoot(page, tmp_path, "review-appeal")
    page.keyboard.press("r")
    expect(page.locator("#status")).to_contain_text("Released by Ada")
    url = desk.image(job)["url"]
    assert desk.stack.http.get(url).status_code == 200
    page.keyboard.press("u")
    expect(page.locator("#status")).to_contain_text("Undone")
    expect(page.locator("#prompt")).to_have_text(prompt)
    expect(page.locator("#votes")).to_contain_text("undone by Ada")
    assert desk.image(job)["url"] is None
    assert desk.stack.http.get(url).status_code == 404


def test_who_is_late_is_told_who_decided(page: Page, desk: Desk) -> None:
    first, second = HELD["weapons"][3:5]
    jobs, bob = [desk.held(first), desk.held(second)], desk.key("Bob")
    sign_in(page, desk.key("Ada"))
    walk_to(page, first)
    desk.act(bob, first, "release")
    page.keyboard.press("x")
    expect(page.locator("#status")).to_have_text("You are late: this image was released by Bob.")
    expect(page.locator("#badges")).to_contain_text("released by Bob")
    assert desk.image(jobs[0])["moderation"]["verdict"] == "released"

    # Both at the same moment.
    def second_place(route: Route) -> None:
        desk.act(bob, second, "release")
        route.continue_()

    page.route("**/refuse", second_place)
    walk_to(page, second)
    page.keyboard.press("x")
    expect(page.locator("#status")).to_have_text("This image was released before by Bob.")
    expect(page.locator("#badges")).to_contain_text("released by Bob")
    assert desk.image(jobs[1])["moderation"]["verdict"] == "released"


def test_a_revoked_key_is_told_and_nothing_is_lost(page: Page, desk: Desk) -> None:
    prompt = HELD["weapons"][5]
    job, key = desk.held(prompt), desk.key("Ada")
    sign_in(page, key)
    walk_to(page, prompt)
    page.keyboard.press("n")
    page.keyboard.type("a good reason")
    page.keyboard.press("Escape")
    ids = [each["id"] for each in desk.stack.http.get("/v1/keys").json()["data"] if each["name"] == "Ada"]
    for each in ids:
        desk.stack.http.delete(f"/v1/keys/{each}")
    headers = {"Authorization": f"Bearer {key}"}
    until(lambda: desk.stack.http.get(REVIEWS, headers=headers).status_code == 401, desk.stack)
    page.keyboard.press("r")
    expect(page.locator("#status")).to_contain_text("your notes and your place are kept")
    expect(page.get_by_label("API key")).to_be_focused()
    assert desk.image(job)["url"] is None
    page.keyboard.type(desk.key("Cleo"))
    page.keyboard.press("Enter")
    expect(page.locator("#key-form")).to_be_hidden()
    expect(page.locator("#prompt")).to_have_text(prompt)
    expect(page.locator("#note")).to_have_value("a good reason")
    page.keyboard.press("r")
    expect(page.locator("#status")).to_contain_text("Released by Cleo")
    (decided,) = [each for each in desk.waiting(desk.key("Dan"), state="decided") if each["prompt"] == prompt]
    assert decided["decision"]["note"] == "a good reason"


def test_two_must_agree_and_a_key_opens_so_many_images_a_day(browser: Browser, desk: Desk) -> None:
    port = process.free_port()
    prompts = HELD["weapons"][6], HELD["violence"][1]
    job, _ = desk.held(prompts[0]), desk.held(prompts[1])
    desk.stack.start(
        "api",
        "api-two",
        DARKROOM_PORT=str(port),
        DARKROOM_REVIEWERS="2",
        DARKROOM_REVIEW_PICTURES_PER_DAY="1",
    )
    process.wait_until(
        lambda: process.answers(port, b"GET /readyz HTTP/1.0\r\n\r\n", b"HTTP/1.0 200"),
        desk.stack.processes["api-two"],
        desk.stack.folder / "api-two",
        90.0,
    )
    address = f"http://127.0.0.1:{port}/review"
    for name in ("Ada", "Bob"):
        for window in opened(browser, desk.stack, viewport=DESKTOP):
            window.goto(address)
            window.get_by_label("Category").fill("weapons")
            window.get_by_label("Tenant").fill("admin")
            window.locator("#key").fill(desk.key(name))
            window.locator("#key").press("Enter")
            expect(window.locator("#waiting")).to_contain_text("2 reviewers must agree")
            window.locator("#queue button", has_text=prompts[0]).click()
            expect(window.locator("#prompt")).to_have_text(prompts[0])
            expect(window.locator("#facts")).to_contain_text("Findings")
            if name == "Ada":
                window.get_by_role("button", name="Release", exact=True).click()
                expect(window.locator("#status")).to_contain_text("waits for one more reviewer")
                assert desk.image(job)["url"] is None
            else:
                expect(window.locator("#badges")).to_contain_text("1 of 2 reviewers")
                expect(window.locator("#votes")).to_contain_text("Ada: release")
                window.get_by_role("button", name="Release", exact=True).click()
                expect(window.locator("#status")).to_contain_text("Released by Bob")
                assert desk.image(job)["moderation"]["verdict"] == "released"
            # The filter leaves the other category out. Its image is the second that this key would open.
            window.get_by_label("Category").fill("violence")
            window.get_by_label("Category").press("Enter")
            expect(window.locator("#queue li").first).to_contain_text("violence")
            window.locator("#queue button", has_text=prompts[1]).click()
            expect(window.locator("#look-text")).to_contain_text(
                "may open 1 held images per day of UTC. Again in"
            )
            expect(window.locator("#picture")).to_be_hidden()
    desk.stack.end("api-two")


def test_a_phone(browser: Browser, desk: Desk, tmp_path: Path) -> None:
    desk.held(HELD["violence"][1])
    for window in opened(browser, desk.stack, viewport=PHONE, has_touch=True):
        sign_in(window, desk.key("Ada"))
        expect(window.locator("#picture")).to_be_visible()
        expect(window.locator("#picture")).to_have_css("filter", re.compile("blur"))
        window.locator("#look").tap()
        expect(window.locator("#picture")).to_have_css("filter", "none")
        window.locator("#look").tap()
        expect(window.get_by_role("button", name="Release", exact=True)).to_be_in_viewport()
        assert window.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off"
        shoot(window, tmp_path, "review-phone", whole=False)


def test_the_filters_and_what_was_decided(page: Page, desk: Desk) -> None:
    key = desk.key("Ada")
    prompt = HELD["violence"][0]
    desk.held(prompt)
    sign_in(page, key)
    page.get_by_label("Category").fill("violence")
    page.get_by_label("Category").press("Enter")
    expect(page.locator("#queue")).not_to_contain_text("weapons")
    expect(page.locator("#queue")).to_contain_text(prompt)
    page.get_by_label("Tenant").fill("nobody")
    page.get_by_label("Tenant").press("Enter")
    expect(page.locator("#queue")).to_have_text("Nothing is here.")
    expect(page.locator("#case")).to_be_hidden()
    page.get_by_label("Tenant").fill("")
    page.get_by_label("Tenant").press("Enter")
    expect(page.locator("#prompt")).to_be_visible()
    walk_to(page, prompt)
    page.get_by_role("button", name="Refuse", exact=True).click()
    expect(page.locator("#status")).to_contain_text("Refused by Ada")
    page.get_by_label("Keys on").uncheck()
    page.keyboard.press("u")
    expect(page.locator("#status")).to_contain_text("Refused by Ada")
    page.get_by_label("State").select_option("decided")
    first = page.locator("#queue li").first
    expect(first).to_contain_text("refused by Ada")
    first.get_by_role("button").click()
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(page.locator("#status")).to_contain_text("Undone")


def test_what_a_model_advises_is_shown_as_text_and_decides_nothing(
    page: Page, desk: Desk, tmp_path: Path
) -> None:
    prompt = HELD["violence"][2]
    job = desk.held(prompt)
    key = desk.key("Ada")
    (name,) = [each["name"] for each in desk.waiting(key, limit=100) if each["prompt"] == prompt]
    look = SecondLook(
        outcome="refuse",
        model="look-7b",
        policy="house@1",
        reason="<b>a glove</b> for fights",
        findings=(Finding(layer="second_look", category="violence", score=0.91, source="look-7b"),),
        at=1.0,
    )

    async def note() -> None:
        redis_url = desk.stack.environ["DARKROOM_REDIS_URL"]
        stores = open_stores(BackendSettings(redis_url=redis_url, blob_dir=tmp_path))
        try:
            (review,) = await stores.reviews.find(name)
            assert await stores.looks.note(review.id, look) == look
        finally:
            await stores.close()

    with ThreadPoolExecutor(1) as thread:  # the browser's own loop runs on this one
        thread.submit(asyncio.run, note()).result()
    sign_in(page, key)
    walk_to(page, prompt)
    expect(page.locator("#facts")).to_contain_text(
        "look-7b advises to refuse (violence 0.91): “<b>a glove</b> for fights”"
    )
    page.get_by_role("button", name="Release", exact=True).click()
    expect(page.locator("#status")).to_contain_text("Released by Ada")
    assert desk.image(job)["moderation"]["verdict"] == "released"

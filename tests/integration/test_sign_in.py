"""A reviewer signs in at an OpenID provider, in a real browser, and reviews without a key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.integration.people import api_for_people
from tests.integration.reviewing import HELD, REVIEWS, Desk, walk_to
from tests.integration.reviewing import desk as desk
from tests.integration.test_playground import DESKTOP, browser, opened, shoot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

__all__ = ["browser"]


@pytest.fixture(scope="module")
def address(desk: Desk) -> Iterator[str]:
    with api_for_people(desk.stack) as public:
        yield public


@pytest.fixture
def page(browser: Browser, desk: Desk, address: str) -> Iterator[Page]:
    for window in opened(browser, desk.stack, viewport=DESKTOP):
        # The provider's form asks another host for a font.
        window.route(re.compile("^https:"), lambda route: route.fulfill(content_type="text/css", body=""))
        window.goto(f"{address}/review")
        yield window


def sign_in(page: Page, login: str) -> None:
    page.get_by_role("link", name="Sign in", exact=True).click()
    page.get_by_placeholder("Enter any login").fill(login)
    page.get_by_placeholder("and password").fill("x")
    page.get_by_role("button", name="Sign-in").click()
    page.get_by_role("button", name="Continue").click()


def test_a_person_signs_in_releases_an_image_and_signs_out(
    page: Page, desk: Desk, address: str, tmp_path: Path
) -> None:
    prompt = HELD["weapons"][0]
    job = desk.held(prompt)
    link = page.get_by_role("link", name="Sign in", exact=True)
    expect(link).to_be_focused()
    shoot(page, tmp_path, "review-sign-in", whole=False)
    sign_in(page, "ada")
    expect(page.locator("#who")).to_contain_text("Ada Lovelace")
    assert page.url == f"{address}/review"
    expect(page.locator("#key-form")).to_be_hidden()
    walk_to(page, prompt)
    page.keyboard.press("r")
    expect(page.locator("#status")).to_have_text("Released by Ada Lovelace. U undoes it.")
    assert desk.image(job)["moderation"]["verdict"] == "released"
    # No script reads the session, and nothing of it stays in the page.
    (cookie,) = [each for each in page.context.cookies() if each["name"] == "darkroom-session"]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    assert "darkroom" not in page.evaluate("document.cookie")
    assert cookie["value"] not in page.content() + str(page.evaluate("[localStorage, sessionStorage]"))

    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("#status")).to_contain_text("You are signed out here")
    expect(link).to_be_focused()
    expect(page.locator("#case")).to_be_hidden()
    copy = httpx.get(f"{address}{REVIEWS}", cookies={"darkroom-session": cookie["value"]})
    assert copy.json()["error"]["code"] == "session_ended"
    # A key still does.
    page.locator("#key").fill(desk.key("Bob"))
    page.locator("#key").press("Enter")
    expect(page.locator("#key-form")).to_be_hidden()
    expect(page.locator("#who")).to_be_hidden()


def test_a_session_that_ends_loses_no_note(page: Page, desk: Desk, address: str) -> None:
    prompt = HELD["weapons"][1]
    job = desk.held(prompt)
    sign_in(page, "ada")
    walk_to(page, prompt)
    page.keyboard.press("n")
    page.keyboard.type("a good reason")
    page.keyboard.press("Escape")
    (cookie,) = [each for each in page.context.cookies() if each["name"] == "darkroom-session"]
    ended = httpx.post(
        f"{address}/sign-out", cookies={"darkroom-session": cookie["value"]}, headers={"Origin": address}
    )
    assert ended.status_code == 204
    page.keyboard.press("r")
    expect(page.locator("#status")).to_contain_text("Your sign-in has ended.")
    assert desk.image(job)["url"] is None
    # The provider still knows the person, and asks nothing.
    page.get_by_role("link", name="Sign in", exact=True).click()
    expect(page.locator("#who")).to_contain_text("Ada Lovelace")
    walk_to(page, prompt)
    expect(page.locator("#note")).to_have_value("a good reason")
    page.keyboard.press("r")
    expect(page.locator("#status")).to_contain_text("Released by Ada Lovelace")
    assert page.evaluate("sessionStorage.getItem('darkroom.notes')") is None


def test_whoever_comes_by_another_name_signs_in_at_the_public_one(page: Page, address: str) -> None:
    page.goto(f"{address.replace('127.0.0.1', 'localhost')}/review")
    sign_in(page, "ada")
    expect(page.locator("#who")).to_contain_text("Ada Lovelace")
    assert page.url == f"{address}/review"


def test_who_may_not_review_is_told(page: Page) -> None:
    sign_in(page, "eve")
    expect(page.get_by_role("alert")).to_contain_text("Ask an operator")
    page.get_by_role("link", name="Use an API key").click()
    expect(page.get_by_label("API key")).to_be_visible()
    expect(page.locator("#who")).to_be_hidden()

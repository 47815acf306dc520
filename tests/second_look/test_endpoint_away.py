"""An endpoint that is slow, away, busy or answers what is none, a budget and a deadline: people decide. Real stores, a fake endpoint on loopback."""

from __future__ import annotations

import threading

import pytest

from contracts.reviews import ReviewState
from tests.second_look.conftest import ACTOR, BOTH, Desk, Opener, counted
from tests.second_look.fake_endpoint import FakeEndpoint, completion, scored

pytestmark = pytest.mark.anyio


async def test_a_slow_endpoint_is_called_again_and_then_people_decide(
    opened: Opener, endpoint: FakeEndpoint
) -> None:
    desk: Desk = await opened(may=BOTH, timeout_s=0.3, attempts=2)
    endpoint.hold = threading.Event()
    before = counted("retry"), counted("away")
    job = await desk.held()
    await desk.tick()
    assert (await desk.review(job)).second_look is None
    assert await desk.tick() == 0, "it waits before the next attempt"
    desk.clock.advance(2.5)
    await desk.tick()
    review = await desk.review(job)
    assert review.second_look is not None
    assert (review.second_look.outcome, review.state) == ("away", ReviewState.WAITING)
    assert (counted("retry"), counted("away")) == (before[0] + 1, before[1] + 1)
    assert len(endpoint.requests) == 2
    desk.clock.advance(1000)
    assert await desk.tick() == 0


async def test_an_endpoint_that_is_not_there_leaves_images_to_people(opened: Opener) -> None:
    desk: Desk = await opened(url="http://127.0.0.1:9/v1", attempts=1, may=BOTH)
    job = await desk.held()
    await desk.tick()
    review = await desk.review(job)
    assert review.second_look is not None
    assert (review.second_look.outcome, review.state) == ("away", ReviewState.WAITING)


async def test_busy_and_broken_endpoints_are_called_again(opened: Opener, endpoint: FakeEndpoint) -> None:
    desk: Desk = await opened(may=BOTH)
    endpoint.answers = [(429, {"Retry-After": "30"}), 500, scored({"weapons": 0.0})]
    job = await desk.held()
    await desk.tick()
    desk.clock.advance(29)
    assert await desk.tick() == 0, "the endpoint has said when"
    desk.clock.advance(2)
    await desk.tick()
    desk.clock.advance(5)
    await desk.tick()
    assert (await desk.image(job)).moderation.state == "released"
    assert await desk.trail() == [("release", ACTOR)]
    assert len(endpoint.requests) == 3


async def test_an_endpoint_that_refuses_is_not_called_again(opened: Opener, endpoint: FakeEndpoint) -> None:
    desk: Desk = await opened(may=BOTH)
    endpoint.answers = [401]
    job = await desk.held()
    await desk.tick()
    look = (await desk.review(job)).second_look
    assert look is not None
    assert look.outcome == "away"
    desk.clock.advance(1000)
    assert await desk.tick() == 0


async def test_a_redirect_is_not_followed(opened: Opener, endpoint: FakeEndpoint) -> None:
    desk: Desk = await opened(may=BOTH)
    endpoint.answers = [(307, {"Location": endpoint.url + "/chat/completions"}), scored({"weapons": 0.0})]
    job = await desk.held()
    await desk.tick()
    assert (await desk.review(job)).state is ReviewState.WAITING
    assert len(endpoint.requests) == 1


GARBAGE = [
    b"",
    b"<html>hello</html>",
    b"[]",
    b'{"choices": []}',
    completion(None),
    completion("I cannot help with that."),
    completion('{"reason": "x", "scores": {"weapons": 0.0}}', "length"),
    completion('```json\n{"reason": "x", "scores": {"weapons": 0.0}}\n```'),
    completion('{"scores": {"weapons": 0.0}}'),
    completion('{"reason": "x", "scores": {}}'),
    completion('{"reason": "x", "scores": {"weapon": 0.0}}'),
    completion('{"reason": "x", "scores": {"weapons": 0.0, "other": 0.0}}'),
    completion('{"reason": "x", "scores": {"weapons": "0.0"}}'),
    completion('{"reason": "x", "scores": {"weapons": true}}'),
    completion('{"reason": "x", "scores": {"weapons": -0.1}}'),
    completion('{"reason": "x", "scores": {"weapons": 1.1}}'),
    completion('{"reason": "x", "scores": {"weapons": NaN}}'),
    completion('{"reason": "x", "scores": {"weapons": 0.0}, "decision": "release"}'),
    scored({"weapons": 0.0}, "x" * 300_000),
]


@pytest.mark.parametrize("body", GARBAGE, ids=range(len(GARBAGE)))
async def test_an_answer_that_is_none_leaves_the_image_to_people(
    opened: Opener, endpoint: FakeEndpoint, body: bytes
) -> None:
    """Each of them would release the image if it were taken for an answer."""
    desk: Desk = await opened(may=BOTH)
    endpoint.answers = [body]
    job = await desk.held()
    before = counted("garbled")
    await desk.tick()
    review = await desk.review(job)
    assert review.second_look is not None
    assert (review.second_look.outcome, review.state) == ("garbled", ReviewState.WAITING)
    assert counted("garbled") == before + 1
    desk.clock.advance(1000)
    assert await desk.tick() == 0


async def test_beyond_the_budget_images_wait_for_people(opened: Opener, endpoint: FakeEndpoint) -> None:
    desk: Desk = await opened(may=BOTH, budget_per_hour=2)
    endpoint.answers = [scored({"weapons": 0.0})]
    jobs = [await desk.held() for _ in range(3)]
    await desk.tick()
    looks = [(await desk.review(job)).second_look for job in jobs]
    assert sorted(look.outcome for look in looks if look is not None) == ["over_budget", "release", "release"]
    assert len(endpoint.requests) == 2
    desk.clock.advance(3600)
    assert await desk.tick() == 0, "the one that was over budget is people's now"
    await desk.held()
    await desk.tick()
    assert len(endpoint.requests) == 3, "another hour has its own budget"


async def test_after_the_deadline_nobody_asks(opened: Opener, endpoint: FakeEndpoint) -> None:
    desk: Desk = await opened(may=BOTH, deadline_s=100)
    job = await desk.held()
    desk.clock.advance(101)
    await desk.tick()
    review = await desk.review(job)
    assert review.second_look is not None
    assert (review.second_look.outcome, review.state) == ("too_late", ReviewState.WAITING)
    assert endpoint.requests == []


async def test_no_attempt_is_made_after_the_deadline(opened: Opener, endpoint: FakeEndpoint) -> None:
    desk: Desk = await opened(deadline_s=100, attempts=9)
    endpoint.answers = [(503, {"Retry-After": "101"})]
    job = await desk.held()
    await desk.tick()
    look = (await desk.review(job)).second_look
    assert look is not None
    assert look.outcome == "away"

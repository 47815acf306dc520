"""Held images: the script that ends a job records a review of each, for the job and its followers, and nobody else finds the
result."""

from __future__ import annotations

import time

import pytest

from backends.redis_client import connect
from contracts.errors import ContentBlocked
from contracts.jobs import CacheStatus, Job, JobEnd, JobFailure, JobStatus, Moderated, NewJob, Webhook
from contracts.ports.review_store import Change
from contracts.reviews import Decision, PastDecision, Review, ReviewState, Vote
from contracts.transitions import End, Finished, Submission, Submitted
from contracts.webhooks import EVENTS, Attempt, DeliveryStatus
from store.key_names import Layout
from tests.store.answers import address, store_of
from tests.store.conftest import World, watching
from tests.store.held import held_image, image, result_of
from tests.store.made import claimed, led, name, new, record

pytestmark = pytest.mark.anyio

RELEASE = Vote(choice="release", by="dk_12345678", name="Ada", at=1.0)


async def end_held(world: World, job: NewJob, number: int = 1, severity: int = 2) -> Job:
    """Ends the job with one held image."""
    (answer,) = await world.stores.jobs.end_many(
        [
            End(
                await led(world.stores.jobs, job),
                result_of(image(number)),
                address(job),
                held=(held_image(number, severity=severity),),
            )
        ]
    )
    assert answer == Finished(applied=True)
    return await world.stores.jobs.get(job.tenant, job.id)


async def the_review(world: World, number: int = 1) -> Review:
    (review,) = await world.stores.reviews.find(name(number))
    return review


async def test_an_end_records_what_waits_for_a_person_for_the_job_and_its_followers(world: World) -> None:
    jobs, reviews = world.stores.jobs, world.stores.reviews
    leader, follower = new(), new(tenant="public")
    lease = await led(jobs, leader)
    joined = (await jobs.submit(follower)).job
    assert joined.cache is CacheStatus.JOINED
    held = held_image(1, 0, 2)
    end = End(lease, result_of(image(1), image(2, "passed"), image(1)), address(leader), held=(held,))
    assert await jobs.end_many([end, end]) == [Finished(applied=True), Finished(applied=False)]
    page, cursor = await reviews.page(10)
    assert cursor == ""
    (review,) = page
    assert (review.state, review.severity, review.case) == (ReviewState.WAITING, 2, held.case)
    assert {(each.id, each.tenant, each.indexes) for each in review.jobs} == {
        (leader.id, "public", (0, 2)),
        (follower.id, "public", (0, 2)),
    }
    assert abs(review.created_at - time.time()) < 60
    assert (await reviews.queue()).waiting == 1
    for each in (leader, follower):
        job = await jobs.get("public", each.id)
        assert (job.status, job.in_review) == (JobStatus.SUCCEEDED, True)


async def test_a_result_with_a_held_image_is_found_by_no_later_request(world: World) -> None:
    job, later = new(), new()
    await end_held(world, job)
    assert await world.stores.results.get(address(job)) is None
    (answer,) = await world.stores.jobs.submit_many([Submission(later, address(later))])
    assert isinstance(answer, Submitted)
    assert (answer.lead, answer.job.cache) == (True, CacheStatus.MISS), "not even from the flight that landed"


async def test_the_record_stays_as_long_as_the_file(world: World) -> None:
    job = new()
    await end_held(world, job)
    client = connect(world.settings.redis_url, 20.0)
    layout = Layout(world.settings.shards)
    (review,) = await world.stores.reviews.find(name(1))
    keys = (layout.job_key(job.id), f"{layout.job_prefix(job.id)}review:{review.id}")
    left_s = [await client.pttl(key) / 1000 for key in keys]
    await client.aclose()
    assert left_s[0] > 9000, "the longer retention of the settings holds"
    assert 4900 < left_s[1] <= 5000


async def test_a_job_whose_images_are_all_blocked_fails_with_its_followers_and_none_tries_again(
    world: World,
) -> None:
    jobs = world.stores.jobs
    leader = new()
    follower = new()
    lease = await led(jobs, leader)
    await jobs.submit(follower)
    blocked = JobFailure(code=ContentBlocked.code, message="blocked")
    (answer,) = await jobs.end_many([End(lease, blocked, refund=1)])
    assert answer == Finished(applied=True)
    for each in (leader, follower):
        job = await jobs.get("public", each.id)
        assert (job.status, job.failure) == (JobStatus.FAILED, blocked)
    assert (await jobs.submit(new())).lead, "nothing of its flight is left"


async def test_the_gravest_come_first_and_then_the_oldest_over_all_pages(world: World) -> None:
    for number, severity in enumerate((1, 3, 2, 3, 1), start=1):
        await end_held(world, new(f"{number:x}" + f"{number:063x}"), number, severity)
    seen: list[str] = []
    cursor = ""
    while True:
        page, cursor = await world.stores.reviews.page(2, cursor)
        assert len(page) <= 2
        seen += [review.name for review in page]
        if not cursor:
            break
    assert seen == [name(number) for number in (2, 4, 3, 1, 5)]
    assert (await world.stores.reviews.queue()).waiting == 5
    with pytest.raises(ValueError, match="cursor"):
        await world.stores.reviews.page(2, "nonsense")


async def test_of_two_changes_of_one_reading_one_is_written(world: World) -> None:
    reviews = world.stores.reviews
    await end_held(world, new())
    review = await the_review(world)
    decision = Decision(id="d1", choice="release", by="dk_12345678", votes=(RELEASE,), at=1.0)
    change = Change(ReviewState.RELEASED, (RELEASE,), decision, due=True)
    assert await reviews.change(review, change)
    assert not await reviews.change(review, change)
    decided = await the_review(world)
    assert (decided.state, decided.votes, decided.decision) == (ReviewState.RELEASED, (RELEASE,), decision)
    assert (await reviews.page(10))[0] == []
    assert [each.name for each in (await reviews.page(10, decided=True))[0]] == [name(1)]
    assert await reviews.due(10) == [name(1)]
    assert not await reviews.settle(review), "read before the change"
    assert await reviews.settle(decided)
    assert await reviews.due(10) == []


async def test_a_job_that_ends_after_the_decision_makes_it_due_again(world: World) -> None:
    reviews = world.stores.reviews
    await end_held(world, new())
    review = await the_review(world)
    await reviews.change(review, Change(ReviewState.RELEASED, (RELEASE,), None, due=True))
    await reviews.settle(await the_review(world))
    assert await reviews.due(10) == []
    late = new()
    await end_held(world, late)
    assert await reviews.due(10) == [name(1)]
    decided = await the_review(world)
    assert late.id in {each.id for each in decided.jobs}
    assert decided.state is ReviewState.RELEASED, "what people have decided stays"


async def test_a_job_whose_image_was_released_before_is_in_the_review_and_hears_of_an_undo_that_it_missed(
    world: World,
) -> None:
    """Its worker looked at the release a last time, then it was undone, then the job ended."""
    jobs, reviews = world.stores.jobs, world.stores.reviews
    await end_held(world, new())
    undone = Decision(id="d2", choice=None, by="dk_12345678", votes=(), at=2.0)
    for state, decision in ((ReviewState.RELEASED, None), (ReviewState.WAITING, undone)):
        assert await reviews.change(await the_review(world), Change(state, (), decision, due=True))
        await reviews.settle(await the_review(world))
    late = new()
    released = held_image(1).model_copy(update={"released": True})
    end = End(await led(jobs, late), result_of(image(1, "released")), held=(released,))
    assert await jobs.end_many([end]) == [Finished(applied=True)]
    assert await reviews.due(10) == [name(1)]
    review = await the_review(world)
    assert (review.state, late.id in {each.id for each in review.jobs}) == (ReviewState.WAITING, True)
    other = held_image(2).model_copy(update={"released": True})
    third = new("b" * 64)
    end = End(await led(jobs, third), result_of(image(2, "released")), held=(other,))
    await jobs.end_many([end])
    assert (await the_review(world, 2)).state is ReviewState.RELEASED
    assert [each.name for each in (await reviews.page(10))[0]] == [name(1)]
    assert name(2) in [each.name for each in (await reviews.page(10, decided=True))[0]]


async def test_a_decision_reaches_the_record_the_watchers_the_webhook_and_the_search(world: World) -> None:
    stores = world.stores
    job = new().model_copy(update={"webhook": Webhook(url="https://a.example/", events=EVENTS)})
    before = await end_held(world, job)
    assert before.result is not None
    (call,) = await stores.webhooks.take(job.id[-1], 9, 60.0)
    duty = await stores.webhooks.begin(call, 60.0)
    assert duty is not None
    assert (duty.event, duty.round, duty.attempt) == ("job.succeeded", 0, 1)
    after = result_of(image(1, "released"))
    async with watching(stores.events, job.id) as events:
        picture = record(job, 1)
        assert await stores.reviews.apply(job.id, before.result, after, picture)
        async for event in events:
            if not isinstance(event, JobEnd):  # from a cluster, the end of before may come late
                break
        assert event == Moderated(sequence=before.sequence + 1)
    assert not await stores.reviews.apply(job.id, before.result, after, picture), "it is done"
    now = await stores.jobs.get("public", job.id)
    assert (now.result, now.sequence, now.in_review) == (after, before.sequence + 1, False)
    assert [each.name for each in await stores.pictures.read([job.id])] == [name(1)]
    assert list(await stores.pictures.take(job.id[-1], 9, 60.0)) == [job.id]
    # The first event is on its way: the next follows its delivery, with attempts of its own.
    delivered = Attempt(at=1.0, duration_ms=1.0, status_code=200)
    assert await stores.webhooks.settle(call, delivered, DeliveryStatus.DELIVERED, None)
    (second,) = await stores.webhooks.take(job.id[-1], 9, 60.0)
    assert second.attempt == 2
    duty = await stores.webhooks.begin(second, 60.0)
    assert duty is not None
    assert (duty.event, duty.round, duty.attempt) == ("job.moderated", 1, 1)
    assert await stores.webhooks.settle(second, delivered, DeliveryStatus.DELIVERED, None)
    assert await stores.webhooks.take(job.id[-1], 9, 60.0) == []


async def test_decisions_are_remembered_by_the_image(world: World) -> None:
    reviews = world.stores.reviews
    decision = PastDecision(state=ReviewState.REFUSED, decision_id="d1", at=1.0)
    await reviews.remember(name(1), decision)
    assert await reviews.past([name(1), name(2), name(1)]) == {name(1): decision}
    undone = PastDecision(state=ReviewState.WAITING, decision_id="d2", at=2.0)
    for later in (undone, decision):
        await reviews.remember(name(1), later)
        assert await reviews.past([name(1)]) == {}, "a process that is behind changes nothing"


async def test_one_thing_counts_once_a_day(world: World) -> None:
    reviews = world.stores.reviews
    allowed = [await reviews.count_once("opened", "dk_1", member, 2) for member in ("a", "a", "b", "c", "b")]
    assert allowed == [True, True, True, False, True]
    assert await reviews.count_once("opened", "dk_2", "c", 2)


async def test_a_job_without_held_images_ends_as_ever(world: World) -> None:
    job = new()
    await world.stores.jobs.submit(job)
    lease = await claimed(world.stores.jobs, job.id)
    shown = result_of(image(1, "tagged"), image(2, None))
    assert await world.stores.jobs.end_many([End(lease, shown, address(job))]) == [Finished(applied=True)]
    await store_of(world).close()  # a cache on another server is filled behind the end
    assert await world.stores.results.get(address(job)) == shown
    assert await world.stores.reviews.find(name(1)) == []

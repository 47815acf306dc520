"""Jobs that are submitted together: each is answered for itself."""

from __future__ import annotations

import pytest

from backends.redis_client import connect
from contracts.errors import RecordUnreadable
from contracts.jobs import JobStatus, Priority
from contracts.transitions import Found, Submission, Submitted, TooManyAhead
from store.key_names import fair_prefix
from tests.store.answers import address, job_of, store_of
from tests.store.conftest import World
from tests.store.made import KEY, keys, led, new, result

pytestmark = pytest.mark.anyio


async def test_jobs_are_submitted_each_for_itself(world: World) -> None:
    jobs = world.stores.jobs
    cached, landed = new("c" * 64), new("d" * 64)
    await world.stores.results.put(address(cached), result())
    await jobs.succeed(await led(jobs, landed), result("1" * 64 + ".png"))
    known = new("e" * 64)
    await jobs.submit(known)
    leader, follower, late = new("a" * 64), new("a" * 64), new("d" * 64)
    answers = await jobs.submit_many(
        [
            Submission(leader, address(leader)),
            Submission(follower),
            Submission(cached, address(cached)),
            Submission(late),
            Submission(known),
            Submission(new("b" * 64), most_ahead=-1),
        ]
    )
    led_one, joined, found, new_record, again, refused = answers
    assert isinstance(led_one, Submitted)
    assert isinstance(joined, Submitted)
    assert led_one.lead is not joined.lead
    if world.settings.shards == 1:
        # Where the group is one call, the second of one key joins the first.
        assert led_one.lead
    assert found == Found(result())
    assert job_of(new_record).status is JobStatus.SUCCEEDED
    assert isinstance(again, Submitted)
    assert again.lead
    assert refused == TooManyAhead(None)
    # What was answered is what is recorded.
    for job in (leader, follower, late, known):
        (answer,) = [each for each in answers if isinstance(each, Submitted) and each.job.id == job.id]
        assert answer.job == await jobs.get("public", job.id)
    assert await jobs.statuses([cached.id]) == [None]


async def test_a_job_is_refused_with_the_count_of_those_ahead(world: World) -> None:
    jobs = world.stores.jobs
    for key in keys(3):
        await jobs.submit(new(key))
    (answer,) = await jobs.submit_many([Submission(new("f" * 64), most_ahead=2)])
    assert answer == TooManyAhead(3)
    (answer,) = await jobs.submit_many([Submission(new("f" * 64), most_ahead=3)])
    assert job_of(answer).status is JobStatus.QUEUED
    # Another tenant's job would have its turn before the second of these.
    other = new("9" * 64, tenant="other")
    (answer,) = await jobs.submit_many([Submission(other, most_ahead=1)])
    assert isinstance(answer, Submitted)
    # What costs no computation is welcome all the same.
    (answer,) = await jobs.submit_many([Submission(new("f" * 64), most_ahead=0)])
    assert isinstance(answer, Submitted)
    assert not answer.lead


async def test_who_takes_no_turn_pays_for_none(world: World) -> None:
    """A refused job, one that joins and one that is found leave the fair order as it was."""
    jobs, layout = world.stores.jobs, store_of(world).layout
    first = new("a" * 64)
    await jobs.submit(first)
    client = connect(world.settings.redis_url, 2.0)
    clock = f"{fair_prefix('m')}finish"
    before = await client.zscore(clock, "interactive:public")
    cached = new("b" * 64)
    await world.stores.results.put(address(cached), result())
    await jobs.submit_many([Submission(new("a" * 64)), Submission(cached, address(cached))])
    await jobs.submit_many([Submission(new("c" * 64), most_ahead=0)])
    assert await client.zscore(clock, "interactive:public") == before
    assert await client.zcard(f"{layout.prefix('a')}waiting:m") == 1
    await client.aclose()


@pytest.mark.parametrize("world", ["redis"], indirect=True)
async def test_a_cached_result_that_cannot_be_read_is_a_miss(world: World) -> None:
    jobs, job = world.stores.jobs, new()
    client = connect(world.settings.redis_url, 2.0)
    await client.set(f"darkroom:result:{address(job)}", '{"of": "another version"}')
    (answer,) = await jobs.submit_many([Submission(job, address(job))])
    assert isinstance(answer, Submitted)
    assert answer.lead
    # A record that cannot be read is that job's alone, too.
    await client.hset(store_of(world).layout.job_key(job.id), "request", "{}")
    answers = await jobs.submit_many([Submission(job), Submission(new("b" * 64))])
    assert isinstance(answers[0], RecordUnreadable)
    assert isinstance(answers[1], Submitted)
    await client.aclose()


async def test_a_batch_of_one_flow_keeps_its_order(world: World) -> None:
    """Tags that one call gives grow as those of calls one after the other do."""
    jobs = world.stores.jobs
    made = [new(key).model_copy(update={"cost": 4.0, "weight": 2.0}) for key in keys(5)]
    answers = await jobs.submit_many([Submission(job) for job in made])
    if world.settings.shards == 1:
        assert [job_of(answer).tag for answer in answers] == [0.0, 2.0, 4.0, 6.0, 8.0]
    batch = new(KEY).model_copy(update={"priority": Priority.BATCH})
    (answer,) = await jobs.submit_many([Submission(batch)])
    assert job_of(answer).tag == 0.0

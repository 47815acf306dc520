"""Every event in every state, against a real Redis: it does what the table says, and nothing where the table says nothing."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import pytest

from backends.redis_client import connect
from contracts.errors import ContentBlocked, RecordUnreadable
from contracts.ids import shard_of
from contracts.jobs import JobFailure, JobMessage, Lease, NewJob
from store.jobs import RedisJobStore
from store.states import ENDED, INDICES, TRANSITIONS, Event, State, drawing, table, transition
from tests.store.conftest import World
from tests.store.made import FAILURE, KEY, claimed, new, result, taken

pytestmark = pytest.mark.anyio

DOCS: Final = Path(__file__).parents[2] / "docs" / "structure.md"


class Case:
    """One job in one state, `leader` the job that it follows."""

    def __init__(self, world: World) -> None:
        jobs = world.stores.jobs
        assert isinstance(jobs, RedisJobStore)
        self.world = world
        self.jobs = jobs
        self.job = new(ttl_s=1000.0)
        self.leader: NewJob | None = None
        self.lease = Lease(job_id=self.job.id, attempt=1, started_at=0, claimed_at=0, deadline=0)

    async def reach(self, state: State) -> None:
        jobs = self.jobs
        if state is State.NEW:
            return
        if state is State.FOLLOWING:
            self.leader = new(ttl_s=2000.0)
            await jobs.submit(self.leader)
        await jobs.submit(self.job)
        if state in (State.WAITING, State.FOLLOWING):
            return
        if state is State.WITHDRAWN:
            await jobs.withdraw(self.job.id)
            return
        (mine,) = await taken(jobs, 1)
        self.lease = mine.lease
        if state is State.SUCCEEDED:
            await jobs.succeed(self.lease, result())
        elif state is State.FAILED:
            await jobs.fail(self.lease, FAILURE)
        elif state is State.CANCELED:
            await jobs.cancel("public", self.job.id)
        elif state is State.EXPIRED:
            await jobs.expire(self.lease)

    async def look(self) -> tuple[State, frozenset[str]]:
        """The state that the record and the indices show, and where the job is listed."""
        layout, job_id, key = self.jobs.layout, self.job.id, self.job.key
        prefix = layout.job_prefix(job_id)
        client = connect(self.world.settings.redis_url, 20.0)
        record: dict[Any, Any] = await client.hgetall(layout.job_key(job_id))
        listed = {
            name
            for name in ("outbox", "leases", "deadlines")
            if await client.zscore(prefix + name, job_id) is not None
        }
        for name, of in (("waiting", "m"), ("tenant", "public")):
            if await client.zscore(f"{prefix}{name}:{of}", job_id) is not None:
                listed.add(name)
        if job_id in await client.lrange(f"{prefix}followers:{key}", 0, -1):
            listed.add("followers")
        flight: dict[Any, Any] = await client.hgetall(f"{prefix}flight:{key}")
        if flight.get("leader") == job_id and "result" not in flight:
            listed.add("flight")
        await client.aclose()
        status = record.get("status", "new")
        if status == "queued":
            status = "following" if "followers" in listed else "waiting"
        return State(status), frozenset(listed)

    async def message(self) -> JobMessage:
        job = self.job
        return JobMessage(
            job_id=job.id, tenant=job.tenant, key=job.key, request=job.request, created_at=0.0, deadline=1.0
        )


async def submit(case: Case) -> None:
    with suppress(RecordUnreadable):  # a mark is no job
        await case.jobs.submit(case.job)


async def join(case: Case) -> None:
    if not (await case.jobs.statuses([case.job.id]))[0]:
        await case.jobs.submit(new(ttl_s=2000.0))
    await submit(case)


async def hit(case: Case) -> None:
    with suppress(RecordUnreadable):
        await case.jobs.submit(case.job, result())


async def take(case: Case) -> None:
    for mine in await taken(case.jobs, 9, "w2"):
        if mine.message.job_id != case.job.id:
            await case.jobs.release(mine.lease)


async def claim(case: Case) -> None:
    await case.jobs.claim(await case.message(), "w2")


async def release(case: Case) -> None:
    await case.jobs.release(case.lease)


async def lapse(case: Case) -> None:
    case.world.advance(case.world.settings.lease_s + 1)
    await case.jobs.sweep(shard_of(case.job.id), 100)


async def succeed(case: Case) -> None:
    await case.jobs.succeed(case.lease, result())


async def fail(case: Case) -> None:
    await case.jobs.fail(case.lease, FAILURE)


async def give_up(case: Case) -> None:
    await case.jobs.expire(case.lease)


async def exhaust(case: Case) -> None:
    """Its attempts are used up, and then it is taken once more."""
    client = connect(case.world.settings.redis_url, 20.0)
    if await client.exists(case.jobs.layout.job_key(case.job.id)):
        await client.hset(
            case.jobs.layout.job_key(case.job.id), "attempt", str(case.world.settings.max_attempts)
        )
    await client.aclose()
    await take(case)


async def cancel(case: Case) -> None:
    if (await case.jobs.statuses([case.job.id]))[0]:
        await case.jobs._run("cancel", shard_of(case.job.id), case.job.id, "public")


async def overdue(case: Case) -> None:
    case.world.advance(1001.0)
    await case.jobs.sweep(shard_of(case.job.id), 100)


async def withdraw(case: Case) -> None:
    await case.jobs.withdraw(case.job.id)


async def leader_succeeds(case: Case) -> None:
    if case.leader is not None:
        await case.jobs.succeed(await claimed(case.jobs, case.leader.id), result())


async def leader_fails_once_too_often(case: Case) -> None:
    if case.leader is not None:
        client = connect(case.world.settings.redis_url, 20.0)
        await client.hset(case.jobs.layout.flight_key(KEY), "promotions", "2")
        await client.aclose()
        await case.jobs.fail(await claimed(case.jobs, case.leader.id), FAILURE)


async def leader_is_blocked(case: Case) -> None:
    if case.leader is not None:
        blocked = JobFailure(code=ContentBlocked.code, message="The policy blocks every image.")
        await case.jobs.fail(await claimed(case.jobs, case.leader.id), blocked)


async def leader_ends(case: Case) -> None:
    if case.leader is not None:
        await case.jobs.cancel("public", case.leader.id)


EVENTS: Final[dict[Event, Callable[[Case], Awaitable[None]]]] = {
    Event.SUBMIT: submit,
    Event.JOIN: join,
    Event.HIT: hit,
    Event.TAKE: take,
    Event.CLAIM: claim,
    Event.RELEASE: release,
    Event.LAPSE: lapse,
    Event.SUCCEED: succeed,
    Event.FAIL: fail,
    Event.GIVE_UP: give_up,
    Event.EXHAUST: exhaust,
    Event.CANCEL: cancel,
    Event.OVERDUE: overdue,
    Event.WITHDRAW: withdraw,
    Event.LEADER_SUCCEEDS: leader_succeeds,
    Event.LEADER_FAILS_ONCE_TOO_OFTEN: leader_fails_once_too_often,
    Event.LEADER_IS_BLOCKED: leader_is_blocked,
    Event.LEADER_ENDS: leader_ends,
}


@pytest.mark.parametrize("world", ["redis"], indirect=True)
@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("state", State)
async def test_an_event_does_what_the_table_says(world: World, state: State, event: Event) -> None:
    case = Case(world)
    await case.reach(state)
    before, listed = await case.look()
    assert before is state
    await EVENTS[event](case)
    after, now = await case.look()
    wanted = transition(event, state)
    if wanted is None:
        assert (after, now) == (state, listed)
        return
    assert after is wanted.after
    assert now - listed == wanted.joins
    assert listed - now == wanted.leaves & listed


def test_all_events_are_tried() -> None:
    assert set(EVENTS) == set(Event) == {each.event for each in TRANSITIONS}
    pairs = [(each.event, before) for each in TRANSITIONS for before in each.before]
    assert len(pairs) == len(set(pairs)), "one event has one outcome in one state"


def test_nothing_leaves_an_end() -> None:
    assert not [each for each in TRANSITIONS if set(each.before) & set(ENDED)]


def test_every_index_that_a_script_writes_is_known() -> None:
    scripts = [path for path in (files("store") / "lua").iterdir() if not path.name.startswith("quota_")]
    lua = "".join(path.read_text() for path in scripts)
    written = set(re.findall(r"'(?:ZADD|RPUSH|HSET)', P \.\. '(\w+)", lua))
    of_ended_jobs = {
        "hooks",
        "unindexed",
        "reviews",
        "reviewed",
        "unapplied",
        "discards",
        "refunds",
        "unlooked",
        "unwanted",
    }
    assert written - {"counts"} - of_ended_jobs <= set(INDICES) | {"hook", "hooklog", "picture", "held"}


def test_the_scripts_are_there() -> None:
    names = {path.name.removesuffix(".lua") for path in (files("store") / "lua").iterdir()}
    assert {script for each in TRANSITIONS for script in each.scripts} <= names


def test_the_drawing_is_the_table() -> None:
    text = DOCS.read_text()
    assert "\n".join(drawing()) in text
    assert "\n".join(table()) in text

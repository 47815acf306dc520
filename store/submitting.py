"""Submits: what is asked of `lua/submit.lua`, many jobs in one call, and what its answers come to.

Where one server holds the jobs, the fair clocks and the result cache, the script does it all. Elsewhere (a cluster, several shards, a
cache of its own) what the script cannot reach is asked for before it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from pydantic import ValidationError
from redis.asyncio import Redis

from backends.redis_client import store_errors
from cache.results import RedisResultCache
from contracts.errors import StoreUnavailable, UnavailableError
from contracts.jobs import CacheStatus, Job, JobResult, JobStatus, NewJob
from contracts.transitions import Found, Submission, SubmitAnswer, Submitted, TooManyAhead
from scheduler.fairness import flow_of
from store.groups import run_many
from store.key_names import Layout, fair_prefix
from store.order import Order
from store.records import job_of, paired, static_parts
from store.scripts import Scripts, each_apart
from telemetry import metrics

SEEN_KEYS: Final = 4096
NEVER: Final = -1


class Submitting:
    """Records jobs by groups. `results` is the cache; `clocks`: the fair clocks are within the script's reach; `cached`: the cache is."""

    def __init__(
        self,
        client: Redis,
        scripts: Scripts,
        layout: Layout,
        order: Order,
        results: RedisResultCache,
        timeout_s: float,
        *,
        clocks: bool,
        cached: bool,
    ) -> None:
        self._client = client
        self._scripts = scripts
        self._layout = layout
        self._order = order
        self._results = results
        self._timeout_s = timeout_s
        self._clocks = clocks
        self._cached = cached
        self._seen: OrderedDict[str, None] = OrderedDict()

    async def submit(self, asked: Sequence[Submission]) -> list[SubmitAnswer]:
        """An answer for each, in their order."""
        if not self._cached and any(each.address is not None for each in asked):
            return list(await each_apart(map(self._looked_up, asked)))
        if not self._clocks:
            return list(await each_apart(map(self._fairly, asked)))
        answers = await self._run([(each, None) for each in asked])
        # One that cannot be read is a miss: it was written by another version, or is damaged.
        again = [place for place, answer in enumerate(answers) if answer is None]
        if again:
            others = await self._run([(replace(asked[place], address=None), None) for place in again])
            for place, answer in zip(again, others, strict=True):
                answers[place] = answer
        return [StoreUnavailable("No answer.") if answer is None else answer for answer in answers]

    async def _run(self, asked: Sequence[tuple[Submission, str | None]]) -> list[SubmitAnswer | None]:
        """As `submit`, each with a fair tag or None; the answer None is for a cached result that cannot be read."""
        documents = [_document(*each) for each in asked]
        answers = await run_many(self._scripts, self._layout, "submit", documents)
        return [self._read(each.new, answer) for (each, _), answer in zip(asked, answers, strict=True)]

    def _read(self, new: NewJob, answer: Any) -> SubmitAnswer | None:
        if isinstance(answer, Exception):
            return answer
        try:
            match answer:
                case ["led", created_at, deadline, tag, ahead]:
                    job = _queued(new, created_at, deadline, CacheStatus.MISS, tag)
                    return Submitted(job, lead=True, ahead=None if ahead < 0 else ahead)
                case ["joined", created_at, deadline]:
                    return Submitted(_queued(new, created_at, deadline, CacheStatus.JOINED), lead=False)
                case ["landed", created_at, deadline, result]:
                    landed = JobResult.model_validate_json(result)
                    return Submitted(new_record(new, landed, created_at, deadline), lead=False)
                case ["known", unconfirmed, record]:
                    return Submitted(job_of(paired(record)), lead=bool(unconfirmed))
                case ["found", result]:
                    return Found(JobResult.model_validate_json(result))
                case ["refused", ahead]:
                    return TooManyAhead(None if ahead < 0 else ahead)
                case ["failed", words]:
                    return self._scripts.fault(words)
        except ValidationError:
            return None if answer[0] == "found" else self._scripts.fault("its result cannot be read")
        except UnavailableError as error:
            return error
        raise AssertionError(answer)

    async def _looked_up(self, asked: Submission) -> SubmitAnswer:
        """One job, whose result may be in a cache that the script does not reach."""
        if asked.address is not None:
            try:
                found = await self._results.get(asked.address)
            except StoreUnavailable:
                # A cache that is away is a miss.
                metrics.REPAIRED.labels("cache_lookup").inc()
                found = None
            if found is not None:
                return Found(found)
        (answer,) = await self.submit([replace(asked, address=None)])
        return answer

    async def _fairly(self, asked: Submission) -> SubmitAnswer:
        """One job, with trips of its own for its fair tag and its count ahead."""
        new = asked.new
        never = replace(asked, most_ahead=NEVER)
        if self._may_join(new.key):
            # A crowd that asks for one picture takes no turns: all but its first member join it.
            (joined,) = await self._run([(never, "0")])
            if joined is not None and not isinstance(joined, TooManyAhead):
                return joined
        flow, share = flow_of(new.tenant, new.priority), new.cost / new.weight
        ahead = None
        if asked.most_ahead is not None and asked.most_ahead >= 0:
            ahead = await self._order.ahead(new.request.model, flow)
        if asked.most_ahead is not None and (ahead is None or ahead > asked.most_ahead):
            (answer,) = await self._run([(never, "0")])
            return TooManyAhead(ahead) if isinstance(answer, TooManyAhead) or answer is None else answer
        clock = fair_prefix(new.request.model)
        tag = await self._scripts.run("ticket", clock, new.request.model, flow, share)
        (answer,) = await self._run([(replace(asked, most_ahead=None), tag)])
        if not (isinstance(answer, Submitted) and answer.lead):
            # It computes nothing of its own after all: its turn is given back.
            async with store_errors("job store", self._timeout_s):
                await self._client.zincrby(f"{clock}finish", -share, flow)
        return StoreUnavailable("No answer.") if answer is None else answer

    def _may_join(self, key: str) -> bool:
        """Whether this process has lately seen the key, and notes that it has."""
        seen = key in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > SEEN_KEYS:
            self._seen.popitem(last=False)
        return seen


def _document(asked: Submission, tag: str | None) -> dict[str, Any]:
    new = asked.new
    document = {**static_parts(new.id, new), "ttl_s": new.ttl_s}
    if tag is None:
        document |= {"flow": flow_of(new.tenant, new.priority), "share": new.cost / new.weight}
    else:
        document["tag"] = tag
    if asked.address is not None:
        document["address"] = asked.address
    if asked.most_ahead is not None:
        document["most_ahead"] = asked.most_ahead
    return document


def _queued(new: NewJob, created_at: str, deadline: str, cache: CacheStatus, tag: str = "0") -> Job:
    return _job(new, created_at, deadline, status=JobStatus.QUEUED, cache=cache, tag=float(tag))


def new_record(new: NewJob, result: JobResult, created_at: str, deadline: str) -> Job:
    """A job that was recorded with its result."""
    created = float(created_at)
    return _job(
        new,
        created_at,
        deadline,
        status=JobStatus.SUCCEEDED,
        cache=CacheStatus.HIT,
        started_at=created,
        finished_at=created,
        result=result,
        sequence=1,
    )


def _job(new: NewJob, created_at: str, deadline: str, **state: Any) -> Job:
    return Job(
        id=new.id,
        tenant=new.tenant,
        key=new.key,
        request=new.request,
        created_at=float(created_at),
        deadline=float(deadline),
        priority=new.priority,
        origin=new.origin,
        webhook=new.webhook,
        **state,
    )

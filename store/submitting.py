"""Submits: many jobs in one call of `lua/submit.lua`, and its answers.

Where one server holds the jobs, the fair clocks and the result cache, the script does it all.
Elsewhere (a cluster, several shards, a cache with its own Redis) separate calls come first, for
what the script cannot reach.
"""

from __future__ import annotations

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
from runtime.lru import LruCache
from scheduler.fairness import flow_of
from store.groups import run_many
from store.key_names import Layout, fair_prefix
from store.order import Order
from store.records import job_of, paired, static_parts
from store.scripts import Scripts, each_apart
from telemetry import metrics

SEEN_KEYS: Final = 4096
"""Cache keys that a process remembers, to guess which jobs can join a flight."""
NEVER: Final = -1
"""A `most_ahead` that no count meets: the job must not be computed."""


class Submitting:
    """Records jobs in groups. `results` is the cache. `clocks`: the script reaches the fair clocks.
    `cached`: the script reaches the cache."""

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
        self._seen = LruCache[str, bool](SEEN_KEYS)

    async def submit(self, submissions: Sequence[Submission]) -> list[SubmitAnswer]:
        """An answer for each submission, in their order. An error is an answer."""
        if not self._cached and any(submission.address is not None for submission in submissions):
            return list(await each_apart(map(self._submit_after_lookup, submissions)))
        if not self._clocks:
            return list(await each_apart(map(self._submit_with_ticket, submissions)))
        answers = await self._run([(submission, None) for submission in submissions])
        # A cached result that cannot be read is a miss: another version wrote it, or it is damaged.
        unreadable = [place for place, answer in enumerate(answers) if answer is None]
        if unreadable:
            retried = await self._run(
                [(replace(submissions[place], address=None), None) for place in unreadable]
            )
            for place, answer in zip(unreadable, retried, strict=True):
                answers[place] = answer
        return [StoreUnavailable("No answer.") if answer is None else answer for answer in answers]

    async def _run(self, submissions: Sequence[tuple[Submission, str | None]]) -> list[SubmitAnswer | None]:
        """As `submit`, each with its fair tag or None. The answer None stands for a cached result
        that cannot be read."""
        documents = [_document(submission, tag) for submission, tag in submissions]
        answers = await run_many(self._scripts, self._layout, "submit", documents)
        return [
            self._parse_answer(submission.new, answer)
            for (submission, _), answer in zip(submissions, answers, strict=True)
        ]

    def _parse_answer(self, new: NewJob, answer: Any) -> SubmitAnswer | None:
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

    async def _submit_after_lookup(self, submission: Submission) -> SubmitAnswer:
        """Submits one job after a look into a cache that the script does not reach."""
        if submission.address is not None:
            try:
                result = await self._results.get(submission.address)
            except StoreUnavailable:
                # An unreachable cache is a miss.
                metrics.REPAIRED.labels("cache_lookup").inc()
                result = None
            if result is not None:
                return Found(result)
        (answer,) = await self.submit([replace(submission, address=None)])
        return answer

    async def _submit_with_ticket(self, submission: Submission) -> SubmitAnswer:
        """Submits one job, with separate calls for its fair tag and its count ahead."""
        new = submission.new
        join_only = replace(submission, most_ahead=NEVER)
        if self._seen_lately(new.key):
            # Many requests for one image compute it once. All but the first join, and need no place
            # in the order.
            (joined,) = await self._run([(join_only, "0")])
            if joined is not None and not isinstance(joined, TooManyAhead):
                return joined
        flow, share = flow_of(new.tenant, new.priority), new.cost / new.weight
        ahead = None
        if submission.most_ahead is not None and submission.most_ahead >= 0:
            ahead = await self._order.ahead(new.request.model, flow)
        if submission.most_ahead is not None and (ahead is None or ahead > submission.most_ahead):
            (answer,) = await self._run([(join_only, "0")])
            return TooManyAhead(ahead) if isinstance(answer, TooManyAhead) or answer is None else answer
        clock = fair_prefix(new.request.model)
        tag = await self._scripts.run("ticket", clock, new.request.model, flow, share)
        (answer,) = await self._run([(replace(submission, most_ahead=None), tag)])
        if not (isinstance(answer, Submitted) and answer.lead):
            # The job computes nothing after all, so its flow gets the share back.
            async with store_errors("job store", self._timeout_s):
                await self._client.zincrby(f"{clock}finish", -share, flow)
        return StoreUnavailable("No answer.") if answer is None else answer

    def _seen_lately(self, key: str) -> bool:
        """Whether this process saw the key lately. Remembers that it has seen it now."""
        seen = key in self._seen
        self._seen[key] = True
        return seen


def _document(submission: Submission, tag: str | None) -> dict[str, Any]:
    new = submission.new
    document = {**static_parts(new.id, new), "ttl_s": new.ttl_s}
    if tag is None:
        document |= {"flow": flow_of(new.tenant, new.priority), "share": new.cost / new.weight}
    else:
        document["tag"] = tag
    if submission.address is not None:
        document["address"] = submission.address
    if submission.most_ahead is not None:
        document["most_ahead"] = submission.most_ahead
    return document


def _queued(new: NewJob, created_at: str, deadline: str, cache: CacheStatus, tag: str = "0") -> Job:
    return _job(new, created_at, deadline, status=JobStatus.QUEUED, cache=cache, tag=float(tag))


def new_record(new: NewJob, result: JobResult, created_at: str, deadline: str) -> Job:
    """The job as it was recorded with its result. Times are Unix seconds, as text."""
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

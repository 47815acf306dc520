"""Reviews in Redis. `lua/end.lua` records them together with the job's end.

A review is a hash on the shard of its jobs. It stays for as long as the file of its image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis

from contracts.ids import SHARDS, shard_of
from contracts.jobs import JobResult
from contracts.pictures import PictureRecord
from contracts.ports.review_store import Change, Queue
from contracts.reviews import (
    Appeal,
    Decision,
    HeldCase,
    PastDecision,
    Review,
    ReviewState,
    SecondLook,
    ShowingJob,
    Vote,
)
from contracts.settings import BackendSettings
from store.groups import MAX_GROUP
from store.key_names import ANY, PREFIX, Layout
from store.layout import LayoutGuard
from store.pictures import record_parts
from store.scripts import Scripts, as_json
from telemetry.logs import get_logger

WHAT: Final = "review store"
ROOT: Final = f"{PREFIX}{{reviews}}:"
"""The prefix of keys that concern all reviews."""
PAST: Final = f"{ROOT}past:"
PAST_S: Final = 365 * 86_400
"""A decision on an image is kept this long after the image was last drawn."""
JOB: Final = "job:"
"""The prefix of the fields of a review that name jobs."""
DAY_S: Final = 86_400
EQUAL: Final = 4 * MAX_GROUP + 1
"""A page reads so many more, because so many may have the same place as the last one of the page before:
the images of one call of `lua/end.lua`."""
_VOTES: Final = TypeAdapter(tuple[Vote, ...])

log = get_logger(__name__)


class RedisReviewStore:
    """The `ReviewStore` on one Redis server or cluster. `skew_s` shifts its clock by seconds; for
    tests only."""

    def __init__(self, client: Redis, settings: BackendSettings, guard: LayoutGuard) -> None:
        self._client = client
        self._guard = guard
        self._layout = Layout(settings.shards)
        self._scripts = Scripts(client, guard, settings.job_retention_s, settings.redis_timeout_s, WHAT)

    @property
    def skew_s(self) -> float:
        """Seconds by which the store's clock is shifted; for tests only."""
        return self._scripts.skew_s

    @skew_s.setter
    def skew_s(self, seconds: float) -> None:
        self._scripts.skew_s = seconds

    async def page(
        self, limit: int, after: str = "", *, decided: bool = False
    ) -> tuple[Sequence[Review], str]:
        """Up to `limit` reviews, and the cursor of the next ones; empty: there are no more."""
        place = cursor_place(after)
        kind = "reviewed" if decided else "reviews"
        found: list[tuple[float, str]] = []
        async with self._guard.store_errors(WHAT), self._client.pipeline(transaction=False) as pipeline:
            for prefix in self._layout.prefixes:
                if decided:
                    bound = "+inf" if place is None else place[0]
                    pipeline.zrevrangebyscore(
                        f"{prefix}{kind}", bound, "-inf", start=0, num=limit + EQUAL, withscores=True
                    )
                else:
                    bound = "-inf" if place is None else place[0]
                    pipeline.zrangebyscore(
                        f"{prefix}{kind}", bound, "+inf", start=0, num=limit + EQUAL, withscores=True
                    )
            for page in await pipeline.execute():
                found += [(-score if decided else score, member) for member, score in page]
        if place is not None:
            passed = (-place[0] if decided else place[0], place[1])
            found = [each for each in found if each > passed]
        found.sort()
        reviews = await self._read([member for _, member in found[:limit]])
        if len(found) <= limit:
            return reviews, ""
        score, member = found[limit - 1]
        return reviews, f"{-score if decided else score!r}~{member}"

    async def find(self, name: str) -> Sequence[Review]:
        """The reviews of an image, at most one for each digit of job ids."""
        return await self._read([f"{name}:{digit}" for digit in SHARDS], tidy=False)

    async def of_job(self, job_id: str, index: int) -> str | None:
        """The file name of a job's image `index`, if it is or was held; else None."""
        async with self._guard.store_errors(WHAT):
            call: Any = self._client.hget(held_key(self._layout, job_id), str(index))
            name: str | None = await call
        return name

    async def change(self, review: Review, change: Change) -> bool:
        """Writes the change. Answers false if the review has changed since it was read."""
        fields: dict[str, str] = {
            "state": change.state.value,
            "votes": _VOTES.dump_json(change.votes).decode(),
            "discarded": str(int(change.discarded)),
        }
        gone = []
        if change.decision is not None:
            fields["decision"] = change.decision.model_dump_json()
        else:
            gone.append("decision")
        if change.severity is not None:
            fields["severity"] = str(change.severity)
        if change.appeal is not None:
            fields["appeal"] = change.appeal.model_dump_json()
        document = {
            "fields": fields,
            "gone": gone,
            "listed": change.state is ReviewState.WAITING,
            "due": change.due,
            "discard_s": -1 if change.discard_s is None else change.discard_s,
        }
        prefix = self._layout.prefix(review.digit)
        return bool(
            await self._scripts.run("review_swap", prefix, review.id, review.version, as_json(document))
        )

    async def due(self, limit: int) -> Sequence[str]:
        """File names of images whose decision is to be carried out."""
        members = await self._members("unapplied", limit)
        return [*dict.fromkeys(member.rpartition(":")[0] for member in members)][:limit]

    async def discards(self, limit: int) -> Sequence[str]:
        """Ids of reviews that are over."""
        return await self._members("discards", limit)

    async def renew(self, review: Review, keep_s: float) -> bool:
        """Keeps a review that waits for `keep_s` seconds from now. Answers false if it does not wait."""
        prefix = self._layout.prefix(review.digit)
        return bool(await self._scripts.run("review_renew", prefix, review.id, keep_s))

    async def apply(
        self,
        job_id: str,
        before: JobResult,
        after: JobResult,
        picture: PictureRecord | None,
        hidden: str = "",
    ) -> bool:
        """Writes a job's result as people decided, and tells its owner and the search index."""
        prefix = self._layout.job_prefix(job_id)
        async with self._guard.store_errors(WHAT):
            stored: Any = await self._client.hget(f"{prefix}job:{job_id}", "result")
        try:
            if stored is None or JobResult.model_validate_json(stored) != before:
                return False
        except ValidationError:
            return False
        record = "" if picture is None else as_json(record_parts(picture))
        text = after.model_dump_json()
        return bool(await self._scripts.run("review_apply", prefix, job_id, stored, text, record, hidden))

    async def settle(self, review: Review) -> bool:
        """The decision is carried out. Answers false if the review has changed since it was read."""
        prefix = self._layout.prefix(review.digit)
        return bool(await self._scripts.run("review_settle", prefix, review.id, review.version))

    async def forget(self, name: str) -> None:
        """Nothing is due for an image that has no review any more.

        A review that this version cannot read keeps its duty, for a process that can.
        """
        async with self._guard.store_errors(WHAT), self._client.pipeline(transaction=False) as pipeline:
            for digit in SHARDS:
                pipeline.exists(f"{self._layout.prefix(digit)}review:{name}:{digit}")
            there = await pipeline.execute()
            for digit, kept in zip(SHARDS, there, strict=True):
                if kept:
                    continue
                for kind in ("unapplied", "discards"):
                    pipeline.zrem(f"{self._layout.prefix(digit)}{kind}", f"{name}:{digit}")
            await pipeline.execute()

    async def erase(self, member: str, tenant: str, job_ids: Iterable[str]) -> bool:
        """Takes jobs of a tenant out of a review, with what the tenant has said. Answers whether the review is
        gone, as it is with its last job."""
        (review,) = await self._read([member], tidy=False) or (None,)
        case = ""
        if review is not None and review.case.picture is not None and review.case.picture.scope == tenant:
            case = review.case.model_copy(update={"picture": None}).model_dump_json()
        appeal = review is not None and review.appeal is not None and review.appeal.tenant == tenant
        prefix = self._layout.job_prefix(member)
        return bool(await self._scripts.run("review_erase", prefix, member, case, int(appeal), *job_ids))

    async def past(self, names: Iterable[str]) -> Mapping[str, PastDecision]:
        """What people decided on these images before, by file name. Those that wait again are left out."""
        wanted = [*dict.fromkeys(names)]
        if not wanted:
            return {}
        async with self._guard.store_errors(WHAT), self._client.pipeline(transaction=False) as pipeline:
            for name in wanted:
                pipeline.getex(PAST + name, ex=PAST_S)
            texts = await pipeline.execute()
        found = {
            name: PastDecision.model_validate_json(text)
            for name, text in zip(wanted, texts, strict=True)
            if text is not None
        }
        return {name: past for name, past in found.items() if past.state is not ReviewState.WAITING}

    async def remember(self, name: str, decision: PastDecision) -> None:
        """Keeps what people decided on an image, unless something later is kept."""
        arguments = (decision.model_dump_json(), repr(decision.at), str(PAST_S))
        async with self._guard.store_errors(WHAT):
            await self._client.eval(_REMEMBER, 1, PAST + name, *arguments)  # type: ignore[no-untyped-call, unused-ignore]

    async def queue(self) -> Queue:
        """How long the queue is, and since when its oldest image waits."""
        async with self._guard.store_errors(WHAT), self._client.pipeline(transaction=False) as pipeline:
            for prefix in self._layout.prefixes:
                pipeline.zcard(f"{prefix}reviews")
                for severity in range(4):
                    low = severity * SEVERITY_STEP
                    pipeline.zrangebyscore(
                        f"{prefix}reviews",
                        low,
                        f"({low + SEVERITY_STEP}",
                        start=0,
                        num=1,
                        withscores=True,
                    )
            answers = await pipeline.execute()
        oldest = [
            score % SEVERITY_STEP for answer in answers if isinstance(answer, list) for _, score in answer
        ]
        waiting = sum(answer for answer in answers if isinstance(answer, int))
        return Queue(waiting, min(oldest, default=None))

    async def count_once(self, kind: str, holder: str, member: str, limit: int) -> bool:
        """Whether `holder` may do one more thing of a kind today. The same `member` counts once."""
        async with self._guard.store_errors(WHAT):
            seconds, _ = await self._client.time()
            key = f"{ROOT}{kind}:{int(seconds) // DAY_S}:{holder}"
            answer = await self._client.eval(_COUNT_ONCE, 1, key, member, str(limit), str(2 * DAY_S))  # type: ignore[no-untyped-call, unused-ignore]
        return bool(answer)

    async def _members(self, kind: str, limit: int) -> list[str]:
        """Members of a list of what is due, the oldest of each shard first."""
        async with self._guard.store_errors(WHAT):
            seconds, micros = await self._client.time()
            now = seconds + micros / 1e6 + self.skew_s
            async with self._client.pipeline(transaction=False) as pipeline:
                for prefix in self._layout.prefixes:
                    pipeline.zrangebyscore(f"{prefix}{kind}", "-inf", now, start=0, num=limit)
                pages = await pipeline.execute()
        return [member for page in pages for member in page]

    async def _read(self, members: Sequence[str], *, tidy: bool = True) -> list[Review]:
        """The reviews that can be read, in order. With `tidy`, expired ones leave the lists."""
        if not members:
            return []
        async with self._guard.store_errors(WHAT), self._client.pipeline(transaction=False) as pipeline:
            for member in members:
                pipeline.hgetall(review_key(self._layout, member))
            hashes = await pipeline.execute()
            gone = [member for member, stored in zip(members, hashes, strict=True) if not stored]
            if tidy and gone:
                for member in gone:
                    for kind in ("reviews", "reviewed"):
                        pipeline.zrem(f"{self._layout.job_prefix(member)}{kind}", member)
                await pipeline.execute()
        return [
            review
            for member, stored in zip(members, hashes, strict=True)
            if stored and (review := parsed_review(member, stored)) is not None
        ]


SEVERITY_STEP: Final = 1e11
"""The scores of two severities in the list of what waits differ by this (`lua/record.lua`)."""
_REMEMBER: Final = """
local kept = redis.call('GET', KEYS[1])
if kept and cjson.decode(kept).at > tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
return 1
"""
_COUNT_ONCE: Final = """
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 1 then return 1 end
if redis.call('SCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""


def review_key(layout: Layout, member: str) -> str:
    """The key of the review that the lists name `member`."""
    return f"{layout.prefix(shard_of(member))}review:{member}"


def appeals_key(tenant: str, day: str = ANY) -> str:
    """The key of a tenant's appeals of a day (`count_once`), or the pattern of all its days."""
    return f"{ROOT}appeals:{day}:{tenant}"


def held_key(layout: Layout, job_id: str) -> str:
    """The key that names the held images of a job."""
    return f"{layout.job_prefix(job_id)}held:{job_id}"


def cursor_place(cursor: str) -> tuple[float, str] | None:
    """The place after which a page begins; None: the first page. Raises `ValueError`."""
    if not cursor:
        return None
    score, _, member = cursor.partition("~")
    if not member or not score:
        raise ValueError("this cursor belongs to no list of reviews")
    return float(score), member


def parsed_review(member: str, stored: Mapping[str, str]) -> Review | None:
    """The review of a hash; None: it cannot be read, which is logged."""
    name, _, digit = member.rpartition(":")
    decision, appeal, look = stored.get("decision"), stored.get("appeal"), stored.get("second_look")
    try:
        return Review(
            name=name,
            digit=digit,
            version=int(stored["version"]),
            state=ReviewState(stored["state"]),
            severity=int(stored["severity"]),
            created_at=float(stored["created_at"]),
            case=HeldCase.model_validate_json(stored["case"]),
            jobs=tuple(_job(key, value) for key, value in sorted(stored.items()) if key.startswith(JOB)),
            votes=_VOTES.validate_json(stored.get("votes", "[]")),
            decision=None if decision is None else Decision.model_validate_json(decision),
            appeal=None if appeal is None else Appeal.model_validate_json(appeal),
            second_look=None if look is None else SecondLook.model_validate_json(look),
            discarded=stored.get("discarded") == "1",
            over=stored.get("over") == "1",
        )
    except (KeyError, ValueError) as error:
        log.error("review_unreadable", name=name, error=type(error).__name__)
        return None


def _job(key: str, value: str) -> ShowingJob:
    indexes, _, tenant = value.partition(" ")
    return ShowingJob(
        id=key.removeprefix(JOB), tenant=tenant, indexes=tuple(int(index) for index in indexes.split(","))
    )

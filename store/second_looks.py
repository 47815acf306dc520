"""The outbox of second looks in Redis. `lua/end.lua` records what is owed together with the review."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Final

from redis.asyncio import Redis

from backends.pubsub import messages
from contracts import ids
from contracts.reviews import ANSWERS, SecondLook
from contracts.second_look import LookCall, LookDuty
from contracts.settings import BackendSettings
from store.key_names import PREFIX
from store.layout import LayoutGuard
from store.outbox import RedisOutbox

WHAT: Final = "store of second looks"
SPENT: Final = f"{PREFIX}{{reviews}}:looks:"
"""The prefix of the counts of calls, by hour."""
HOUR_S: Final = 3600
_SPEND: Final = """
local made = tonumber(redis.call('GET', KEYS[1]) or '0')
if made >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], made + 1, 'EX', ARGV[2])
return 1
"""


class RedisLookOutbox(RedisOutbox):
    """The `LookOutbox` on one Redis server or cluster. `skew_s` shifts its clock by seconds; for tests only."""

    def __init__(self, client: Redis, settings: BackendSettings, guard: LayoutGuard) -> None:
        super().__init__(client, settings, guard, WHAT)

    async def take(self, shard: str, limit: int, lease_s: float) -> Sequence[LookCall]:
        """Up to `limit` looks of the shard that are due, oldest first. They are due again after `lease_s`
        seconds."""
        calls = await self._scripts.run("look_take", self._layout.prefix(shard), limit, lease_s)
        return [LookCall(review=review, attempt=attempt) for review, attempt in calls]

    async def begin(self, call: LookCall, lease_s: float) -> LookDuty | None:
        """Grant the attempt for `lease_s` seconds; None: it must not be made."""
        owed_at = await self._run("look_begin", call.review, call.attempt, lease_s)
        return LookDuty(call=call, owed_at=float(owed_at)) if owed_at else None

    async def note(self, review_id: str, look: SecondLook) -> SecondLook | None:
        """Write what came of the look. Answers the one that the review has now; None: the review is gone."""
        text = await self._run("look_note", review_id, look.model_dump_json(), *sorted(ANSWERS))
        return SecondLook.model_validate_json(text) if text else None

    async def settle(self, call: LookCall, next_in_s: float | None) -> bool:
        """End the attempt; with `next_in_s` another one follows. Answers whether it was still ours."""
        wait = "" if next_in_s is None else next_in_s
        return bool(await self._run("look_settle", call.review, call.attempt, wait))

    async def due(self) -> int:
        """How many looks are due now and not taken."""
        async with self._guard.store_errors(WHAT):
            seconds, micros = await self._client.time()
            now = seconds + micros / 1e6 + self.skew_s
            async with self._client.pipeline(transaction=False) as pipeline:
                for prefix in self._layout.prefixes:
                    pipeline.zcount(f"{prefix}unlooked", "-inf", now)
                return sum(await pipeline.execute())

    async def wakes(self) -> AsyncIterator[str]:
        """Shards in which a look has just become due, until the connection is lost."""
        channels = [f"{prefix}unlooked" for prefix in self._layout.prefixes]
        async with aclosing(messages(self._client, channels, WHAT, self._timeout_s)) as reviews:
            async for review in reviews:
                yield self._layout.name(ids.shard_of(review))

    async def spend(self, limit: int) -> bool:
        """Whether one more call may be made in this hour."""
        async with self._guard.store_errors(WHAT):
            seconds, _ = await self._client.time()
            key = f"{SPENT}{int(seconds + self.skew_s) // HOUR_S}"
            answer: Any = self._client.eval(_SPEND, 1, key, str(limit), str(2 * HOUR_S))  # type: ignore[no-untyped-call, unused-ignore]
            return bool(await answer)

    async def _run(self, name: str, review_id: str, *arguments: str | float) -> Any:
        prefix = self._layout.job_prefix(review_id)
        return await self._scripts.run(name, prefix, review_id, *arguments)

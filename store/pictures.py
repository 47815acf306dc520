"""The outbox of pictures in Redis. `lua/end.lua` records the images together with the job's end.

The records of a job are a hash: its tenant, and for each image its record, by name. They stay for as
long as the files do, whether the index has them or not: an index is rebuilt from them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

from pydantic import ValidationError
from redis.asyncio import Redis

from backends.pubsub import messages
from contracts import ids
from contracts.ids import SHARDS
from contracts.pictures import SHARED, PictureRecord
from contracts.ports.picture_outbox import Unwanted
from contracts.settings import BackendSettings
from store.layout import LayoutGuard
from store.outbox import RedisOutbox
from store.paging import page_of_keys
from store.record_names import inner, parsed
from store.scripts import as_json
from telemetry.logs import get_logger

WHAT: Final = "picture store"
TENANT: Final = "tenant"
"""The field of a hash of records that is no record."""
PAGE: Final = 500
MEMBERS: Final = 500
"""Images that one command writes or deletes."""

log = get_logger(__name__)


class RedisPictureOutbox(RedisOutbox):
    """The `PictureOutbox` on one Redis server or cluster. `skew_s` shifts its clock by seconds; for
    tests only."""

    def __init__(self, client: Redis, settings: BackendSettings, guard: LayoutGuard) -> None:
        super().__init__(client, settings, guard, WHAT)
        self._keep_s = settings.blob_retention_s

    async def take(self, shard: str, limit: int, lease_s: float) -> Sequence[str]:
        """Up to `limit` jobs of the shard whose images are due, oldest first. They are due again
        after `lease_s` seconds."""
        taken = await self._scripts.run(
            "picture_take", self._layout.prefix(shard), "unindexed", limit, lease_s
        )
        return list(taken)

    async def read(self, job_ids: Iterable[str]) -> Sequence[PictureRecord]:
        """The records of the jobs' images. One that cannot be read is left out, and logged."""
        return await self._records([self._key(job_id) for job_id in job_ids])

    async def settle(self, job_ids: Sequence[str]) -> Sequence[str]:
        """End the duty of these jobs. Answers those whose records are gone."""
        by_prefix = defaultdict[str, list[str]](list)
        for job_id in job_ids:
            by_prefix[self._layout.job_prefix(job_id)].append(job_id)
        gone: list[str] = []
        for prefix, of_shard in by_prefix.items():
            gone += await self._scripts.run("picture_settle", prefix, *of_shard)
        return gone

    async def forget(self, scope: str, names: Iterable[str]) -> None:
        """Owe the index the deletion of images of a scope."""
        by_prefix = defaultdict[str, list[str]](list)
        for name in names:
            unwanted = Unwanted(scope, name, name[0] if name[:1] in SHARDS else SHARDS[0])
            by_prefix[self._layout.prefix(unwanted.digit)].append(member_of(unwanted))
        for prefix, members in by_prefix.items():
            for begin in range(0, len(members), MEMBERS):
                await self._scripts.run(
                    "picture_forget", prefix, self._keep_s, *members[begin : begin + MEMBERS]
                )

    async def erase(self, job_id: str, shared_stay: Iterable[str] = ()) -> int:
        """Delete the records of a job's images. The index is owed their deletion, without the
        images of the shared scope that `shared_stay` names."""
        async with self._guard.store_errors(WHAT):
            stored: Any = await self._client.hgetall(self._key(job_id))
        stored.pop(TENANT, None)
        stay = frozenset(shared_stay)
        scopes = {name: inner(parsed(text), "scope") for name, text in stored.items()}
        members = [
            member_of(Unwanted(scope, name, ids.shard_of(job_id)))
            for name, scope in scopes.items()
            if isinstance(scope, str) and not (scope == SHARED and name in stay)
        ]
        await self._scripts.run(
            "picture_erase", self._layout.job_prefix(job_id), job_id, self._keep_s, as_json(members)
        )
        return len(stored)

    async def embed(self, records: Sequence[PictureRecord]) -> None:
        """Record the embeddings of imported images whose records are still there."""
        by_prefix = defaultdict[str, list[str]](list)
        for record in records:
            if record.job_id is not None:
                prefix = self._layout.job_prefix(record.job_id)
                by_prefix[prefix] += (record.job_id, record.name, record.model_dump_json())
        for prefix, arguments in by_prefix.items():
            await self._scripts.run("picture_embed", prefix, *arguments)

    async def take_unwanted(self, shard: str, limit: int, lease_s: float) -> Sequence[Unwanted]:
        """Up to `limit` images of the shard that the index must forget, oldest first."""
        taken = await self._scripts.run(
            "picture_take", self._layout.prefix(shard), "unwanted", limit, lease_s
        )
        return [unwanted_of(member) for member in taken]

    async def settle_unwanted(self, forgotten: Sequence[Unwanted]) -> None:
        """End the duty of these deletions."""
        by_prefix = defaultdict[str, list[str]](list)
        for unwanted in forgotten:
            by_prefix[self._layout.prefix(unwanted.digit)].append(member_of(unwanted))
        async with self._guard.store_errors(WHAT):
            for prefix, members in by_prefix.items():
                await self._client.zrem(f"{prefix}unwanted", *members)

    async def owed(self) -> int:
        """How many jobs and deletions the index is owed, taken or not."""
        async with self._guard.store_errors(WHAT), self._client.pipeline(transaction=False) as pipeline:
            for prefix in self._layout.prefixes:
                pipeline.zcard(f"{prefix}unindexed")
                pipeline.zcard(f"{prefix}unwanted")
            return sum(await pipeline.execute())

    async def scan(self, cursor: str = "") -> tuple[str, Sequence[PictureRecord]]:
        """A page of all kept records, and the cursor of the next one; empty: there is none.

        Raises `ValueError` for a cursor that no call of this store has answered.
        """
        async with self._guard.store_errors(WHAT):
            following, keys = await page_of_keys(self._client, self._layout, cursor, "picture", PAGE)
        return following, await self._records(keys)

    async def restore(self, record: PictureRecord, tenant: str) -> None:
        """Record an image that was taken away, as it was, and owe it to the index."""
        if record.job_id is None:
            return
        parts = record_parts(record)
        await self._scripts.run(
            "picture_import",
            self._layout.job_prefix(record.job_id),
            record.job_id,
            tenant,
            record.name,
            parts["keep_s"],
            parts["rest"],
            1,
        )

    async def wakes(self) -> AsyncIterator[str]:
        """Shards in which images have just become due, until the connection is lost."""
        channels = [f"{prefix}unindexed" for prefix in self._layout.prefixes]
        async with aclosing(messages(self._client, channels, WHAT, self._timeout_s)) as job_ids:
            async for job_id in job_ids:
                yield self._layout.name(ids.shard_of(job_id))

    def _key(self, job_id: str) -> str:
        return f"{self._layout.job_prefix(job_id)}picture:{job_id}"

    async def _records(self, keys: Sequence[str]) -> list[PictureRecord]:
        if not keys:
            return []
        async with self._guard.store_errors(WHAT), self._client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hgetall(key)
            hashes = await pipeline.execute()
        return [record for stored in hashes for record in parsed_records(stored)]


def parsed_records(stored: Mapping[str, str]) -> list[PictureRecord]:
    """The records of a hash, without its tenant and without those that cannot be read. Pure but for
    the log."""
    records = []
    for name, text in stored.items():
        if name == TENANT:
            continue
        try:
            records.append(PictureRecord.model_validate_json(text))
        except ValidationError as error:
            log.error("picture_record_unreadable", name=name, errors=error.error_count())
    return records


def member_of(unwanted: Unwanted) -> str:
    """How the set of deletions names an image. The last digit says where it lies, as that of a job's
    id does."""
    return f"{unwanted.name} {unwanted.scope} {unwanted.digit}"


def unwanted_of(member: str) -> Unwanted:
    """The image that `member_of` has named. A name holds no space; a scope may."""
    name, _, rest = member.partition(" ")
    scope, _, digit = rest.rpartition(" ")
    return Unwanted(scope, name, digit)


def record_parts(record: PictureRecord) -> dict[str, Any]:
    """What `lua/end.lua` makes a record of: the time that it is kept, in seconds, and its JSON after
    the two stamps, which are by the store's clock."""
    text = record.model_dump_json(exclude={"created_at", "expires_at"})
    return {
        "name": record.name,
        "keep_s": record.expires_at - record.created_at,
        "rest": text.removeprefix("{"),
    }

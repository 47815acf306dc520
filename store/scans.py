"""Scans in Redis: the document, what was seen, and the right to scan. `lua/review_hold.lua` takes images away.

What layers have found is kept with the cached results, since it may be dropped at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis, RedisCluster

from backends.redis_client import store_errors
from contracts.ids import shard_of
from contracts.jobs import Job, JobResult, JobStatus
from contracts.moderation import Finding
from contracts.ports.picture_outbox import Unwanted
from contracts.ports.scan_store import Changed, TakenAway
from contracts.scans import Scan, Seen
from contracts.settings import BackendSettings
from store.ending import held_parts
from store.key_names import PREFIX, Layout
from store.layout import LayoutGuard
from store.paging import page_of_keys
from store.pictures import member_of
from store.records import job_of, read_all
from store.reviews import ROOT
from store.scripts import Scripts, as_json

WHAT: Final = "scan store"
SCAN: Final = f"{ROOT}scan"
LOCK: Final = f"{ROOT}scan-lock"
IMAGES: Final = f"{ROOT}scan-images"
COUNTED: Final = f"{ROOT}scan-"
"""The prefix of the sets of what was changed."""
LOOKS: Final = f"{PREFIX}looks:"
KINDS: Final[tuple[Changed, ...]] = ("jobs", "results")
PAGE: Final = 100
SEEN_PAGE: Final = 1000
KEEP_S: Final = 7 * 86_400
"""An interrupted scan can be gone on with for so long."""
_FINDINGS: Final = TypeAdapter(tuple[Finding, ...])
_LOCK: Final = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_UNLOCK: Final = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"
_PUT: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
for i = 3, #KEYS do redis.call('EXPIRE', KEYS[i], ARGV[3]) end
return 1
"""


class RedisScanStore:
    """The `ScanStore` on one Redis server or cluster. `cached` is the server of the cached results."""

    def __init__(self, client: Redis, cached: Redis, settings: BackendSettings, guard: LayoutGuard) -> None:
        self._client = client
        self._cached = cached
        self._keep_s = settings.blob_retention_s
        self._timeout_s = settings.redis_timeout_s
        self._guard = guard
        self._layout = Layout(settings.shards)
        self._scripts = Scripts(client, guard, settings.job_retention_s, settings.redis_timeout_s, WHAT)

    async def lock(self, token: str, lease_s: float) -> bool:
        """Takes the right to scan, or keeps it. False: another process has it."""
        return bool(await self._eval(_LOCK, [LOCK], token, round(lease_s * 1000)))

    async def unlock(self, token: str) -> None:
        """Gives the right back, if this process still has it."""
        await self._eval(_UNLOCK, [LOCK], token)

    async def get(self) -> Scan | None:
        """The scan that runs or ran last; None: there was none, or its document is damaged."""
        async with self._guard.store_errors(WHAT):
            text = await self._client.get(SCAN)
        try:
            return None if text is None else Scan.model_validate_json(text)
        except ValidationError:
            return None

    async def put(self, token: str, scan: Scan) -> bool:
        """Records how far the scan has come. False: another process has the right to scan."""
        keys = [LOCK, SCAN, IMAGES, *(COUNTED + kind for kind in KINDS)]
        return bool(await self._eval(_PUT, keys, token, scan.model_dump_json(), KEEP_S))

    async def clear(self) -> None:
        """Forgets what was seen and counted."""
        async with self._guard.store_errors(WHAT):
            await self._client.unlink(IMAGES, *(COUNTED + kind for kind in KINDS))

    async def seen(self, names: Iterable[str]) -> Mapping[str, Seen]:
        """What the scan has made of these images. Others are left out."""
        wanted = [*dict.fromkeys(names)]
        if not wanted:
            return {}
        async with self._guard.store_errors(WHAT):
            call: Any = self._client.hmget(IMAGES, wanted)
            texts = await call
        return {
            name: Seen.model_validate_json(text)
            for name, text in zip(wanted, texts, strict=True)
            if text is not None
        }

    async def mark(self, seen: Mapping[str, Seen]) -> None:
        """Records what it has made of images."""
        if not seen:
            return
        fields: dict[Any, Any] = {
            name: each.model_dump_json(exclude_defaults=True) for name, each in seen.items()
        }
        async with self._guard.store_errors(WHAT):
            call: Any = self._client.hset(IMAGES, mapping=fields)
            await call

    async def all_seen(self, cursor: int) -> tuple[int, Mapping[str, Seen]]:
        """A page of all images, and the next cursor; 0 begins and ends."""
        async with self._guard.store_errors(WHAT):
            call: Any = self._client.hscan(IMAGES, cursor, count=SEEN_PAGE)
            following, fields = await call
        return int(following), {name: Seen.model_validate_json(text) for name, text in fields.items()}

    async def looks(self, looks: str, names: Iterable[str]) -> Mapping[str, tuple[Finding, ...]]:
        """What layers have found in images before, by the policy with the digest `looks`."""
        wanted = [*dict.fromkeys(names)]
        if not wanted:
            return {}
        async with (
            store_errors("result cache", self._timeout_s),
            self._cached.pipeline(transaction=False) as pipeline,
        ):
            for name in wanted:
                pipeline.get(f"{LOOKS}{looks}:{name}")
            texts = await pipeline.execute()
        return {
            name: _FINDINGS.validate_json(text)
            for name, text in zip(wanted, texts, strict=True)
            if text is not None
        }

    async def remember(self, looks: str, name: str, findings: Sequence[Finding]) -> None:
        """Keeps what all layers have found in an image, for as long as images are kept."""
        text = _FINDINGS.dump_json(tuple(findings)).decode()
        async with store_errors("result cache", self._timeout_s):
            await self._cached.set(f"{LOOKS}{looks}:{name}", text, px=round(self._keep_s * 1000))

    async def jobs(self, cursor: str) -> tuple[str, Sequence[Job]]:
        """A page of all records of jobs that succeeded. One that cannot be read is left out, and counted."""
        async with self._guard.store_errors(WHAT):
            following, keys = await page_of_keys(self._client, self._layout, cursor, "job", PAGE)
            async with self._client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.hgetall(key)
                records = await pipeline.execute() if keys else []
        succeeded = [record for record in records if record.get("status") == JobStatus.SUCCEEDED.value]
        return following, read_all(
            "job", ((record.get("id", ""), partial(job_of, record)) for record in succeeded)
        )

    async def server(self) -> str:
        """The process of the store: of a cluster, those of all nodes."""
        several: Any = self._client
        async with self._guard.store_errors(WHAT):
            if not isinstance(several, RedisCluster):
                return str((await several.info("server"))["run_id"])
            await several.initialize()
            nodes = [await several.info("server", target_nodes=node) for node in several.get_primaries()]
        return ".".join(sorted(str(node["run_id"]) for node in nodes))

    async def change(self, kind: Changed, name: str) -> None:
        """Counts a thing that is changed, once."""
        async with self._guard.store_errors(WHAT):
            call: Any = self._client.sadd(COUNTED + kind, name)
            await call

    async def changed(self, kind: Changed) -> int:
        """How many things of a kind were changed."""
        async with self._guard.store_errors(WHAT):
            call: Any = self._client.scard(COUNTED + kind)
            return int(await call)

    async def take_away(self, what: TakenAway) -> bool:
        """Takes images from the record that shows them. False: it has changed since it was read, or is gone."""
        digit = shard_of(what.id) if what.id else what.digit
        prefix = self._layout.prefix(digit)
        document: dict[str, Any] = {
            "held": [held_parts(each) for each in what.held],
            "pictures": [each.name for each in what.pictures],
            "unwanted": [member_of(Unwanted(each.scope, each.name, digit)) for each in what.pictures],
            "keep_s": self._keep_s,
        }
        document |= {"id": what.id} if what.id else {"digit": digit}
        if what.before is not None and what.after is not None:
            async with self._guard.store_errors(WHAT):
                call: Any = self._client.hget(f"{prefix}job:{what.id}", "result")
                stored = await call
            try:
                if stored is None or JobResult.model_validate_json(stored) != what.before:
                    return False
            except ValidationError:
                return False
            document |= {"before": stored, "after": what.after.model_dump_json()}
        return bool(await self._scripts.run("review_hold", prefix, as_json(document)))

    async def _eval(self, script: str, keys: Sequence[str], *arguments: str | float) -> Any:
        async with self._guard.store_errors(WHAT):
            call: Any = self._client.eval(script, len(keys), *keys, *map(str, arguments))
            return await call

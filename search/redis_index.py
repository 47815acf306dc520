"""The index on Redis 8 or newer: one vector set for each scope, and an inverted index of words beside it.

All keys of a scope are in one hash slot, so a cluster spreads scopes over its nodes. A scope has
`vectors` (the vector set), `records` and `facts` (hashes by name), `expiry` and `created` (sorted by time)
and `word:TERM` (sorted by the time of creation). One script puts a picture into all of them, and one takes it
out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final, TypeVar, cast
from urllib.parse import quote

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import ResponseError

from backends.redis_client import connect, disconnect, pages, store_errors, unlink
from contracts.errors import StoreUnavailable
from contracts.pictures import PictureRecord
from search import vectors, words
from search.index import (
    REBUILD,
    IndexMismatch,
    IndexStats,
    Key,
    Match,
    Place,
    Refusal,
    VectorSetsMissing,
    bounded,
    in_time,
)
from search.redis_row import Facts, filter_of, row
from search.where import EVERYTHING, Where
from telemetry.logs import get_logger

T = TypeVar("T")
log = get_logger(__name__)

PREFIX: Final = "darkroom-search:"
"""Not the beginning of the platform's records, so a backup leaves the index out."""
_META: Final = f"{PREFIX}meta"
_SCOPES: Final = f"{PREFIX}scopes"
_WHAT: Final = "search index"
_TOGETHER: Final = 64
_LOOKED: Final = 2_000
_LOOKED_FILTERED: Final = 5_000
"""With a filter, the newest so many pictures that have a word are tried."""
_SLACK: Final = 8
_EFFORT: Final = 200
"""How many candidates a search keeps (HNSW's `ef`). Recall rises with it, and so does the time of a query."""


class RedisIndex:
    """A `PictureIndex` on the server or cluster at `url`. Several processes may use it at once."""

    def __init__(self, url: str, timeout_s: float, max_connections: int) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        self._redis: Redis | None = None
        self._clip = ""
        self._dimensions = 0

    async def open(self, clip: str, dimensions: int, *, fresh: bool = False) -> None:
        """See `PictureIndex.open`."""
        await self.close()
        self._clip, self._dimensions = clip, dimensions
        self._redis = connect(self._url, self._timeout_s, self._max_connections)
        try:
            await self._require_vector_sets()
            if fresh:
                await self._forget_all()
            await self._claim()
        except BaseException:
            await self.close()
            raise

    async def put(self, records: Sequence[PictureRecord]) -> Sequence[Refusal]:
        """See `PictureIndex.put`."""
        _ = self._client
        taken, refused = vectors.sorted_out(records, self._clip, self._dimensions)
        scopes = sorted({record.scope for record in taken})
        for chunk in _chunks(taken):
            # The scope is listed before and after, since it may be erased meanwhile.
            async with self._errors():
                await self._client.sadd(_SCOPES, *scopes)
            await self._together(self._script("put", record.scope, *row(record)) for record in chunk)
            async with self._errors():
                await self._client.sadd(_SCOPES, *scopes)
        return refused

    async def delete(self, scope: str, names: Sequence[str]) -> int:
        """See `PictureIndex.delete`."""
        gone, known = 0, list(filter(vectors.is_name, dict.fromkeys(names)))
        for chunk in _chunks(known if vectors.is_scope(scope) else []):
            gone += await self._script("delete", scope, *chunk)
        return gone

    async def get(self, scope: str, name: str) -> PictureRecord | None:
        """See `PictureIndex.get`."""
        return (await self.get_many([Key(scope, name)]))[0]

    async def get_many(self, keys: Sequence[Key]) -> Sequence[PictureRecord | None]:
        """See `PictureIndex.get_many`."""
        known = [key for key in keys if vectors.is_scope(key.scope) and vectors.is_name(key.name)]
        found = await self._each([("HGET", f"{_base(scope)}records", name) for scope, name in known])
        texts = dict(zip(known, found, strict=True))
        return [PictureRecord.model_validate_json(text) if (text := texts.get(key)) else None for key in keys]

    async def nearest(
        self, scopes: Sequence[str], vector: bytes, count: int, where: Where = EVERYTHING
    ) -> Sequence[Match]:
        """See `PictureIndex.nearest`."""
        query, count = vectors.unit(vector, self._dimensions), bounded(count)
        _ = self._client
        if query is None:
            log.warning("search.vector_refused", bytes=len(vector))
            return []
        if not count:
            return []
        within = _known(scopes)
        found = await self._similar(within, query.astype("<f4").tobytes(), count, where)
        matches = [
            Match(scope, name, 2 * score - 1)
            for scope, each in zip(within, found, strict=True)
            for name, score in each
        ]
        return sorted(matches, key=lambda match: (-match.score, match.scope, match.name))[:count]

    async def by_words(
        self, scopes: Sequence[str], words: str, count: int, where: Where = EVERYTHING
    ) -> Sequence[Match]:
        """See `PictureIndex.by_words`."""
        return await self._by_words(_known(scopes), words, bounded(count), where)

    async def newest(
        self, scopes: Sequence[str], count: int, where: Where = EVERYTHING, before: Place | None = None
    ) -> Sequence[Match]:
        """See `PictureIndex.newest`."""
        count = bounded(count)
        found = [await self._newest(scope, count, where, before) for scope in _known(scopes)]
        return in_time(match for each in found for match in each)[:count]

    async def expire(self, now: float, limit: int) -> int:
        """See `PictureIndex.expire`."""
        scopes = await self._all_scopes()
        calls = [
            ("ZRANGE", f"{_base(scope)}expiry", "-inf", now, "BYSCORE", "LIMIT", 0, limit, "WITHSCORES")
            for scope in scopes
        ]
        found = [
            (expires, scope, name)
            for scope, answer in zip(scopes, await self._each(calls), strict=True)
            for name, expires in _scored(answer)
        ]
        names: dict[str, list[str]] = {}
        for _, scope, name in sorted(found)[:limit]:
            names.setdefault(scope, []).append(name)
        return sum([await self.delete(scope, each) for scope, each in names.items()])

    async def count(self, scope: str | None = None) -> int:
        """See `PictureIndex.count`."""
        scopes = await self._all_scopes() if scope is None else _known([scope])
        return sum(await self._each([("HLEN", f"{_base(each)}records") for each in scopes]))

    async def erase(self, scope: str) -> int:
        """See `PictureIndex.erase`."""
        if not vectors.is_scope(scope):
            return 0
        async with self._errors():
            await self._client.srem(_SCOPES, scope)
        gone = 0
        while names := (await self._each([("HRANDFIELD", f"{_base(scope)}records", _TOGETHER)]))[0]:
            gone += await self.delete(scope, names)
        return gone

    async def stats(self) -> IndexStats:
        """See `PictureIndex.stats`. Memory is all that the server or cluster uses."""
        client: Any = self._client
        everywhere = {"target_nodes": RedisCluster.PRIMARIES} if isinstance(client, RedisCluster) else {}
        async with self._errors():
            told = await client.execute_command("INFO", "memory", **everywhere)
        nodes = [told] if "used_memory" in told else told.values()
        return IndexStats(await self.count(), 0, sum(int(each["used_memory"]) for each in nodes))

    async def flush(self) -> None:
        """See `PictureIndex.flush`. Redis writes by itself."""
        _ = self._client

    async def close(self) -> None:
        """See `PictureIndex.close`."""
        client, self._redis = self._redis, None
        if client is not None:
            await disconnect(client)

    @property
    def _client(self) -> Redis:
        if self._redis is None:
            raise StoreUnavailable("The search index is not open.")
        return self._redis

    def _errors(self) -> Any:
        return store_errors(_WHAT, self._timeout_s)

    async def _by_words(self, scopes: list[str], text: str, count: int, where: Where) -> list[Match]:
        _ = self._client
        wanted = words.query_terms(text)
        if not (wanted and scopes and count):
            return []
        calls = [("ZCARD", f"{_base(scope)}word:{term}") for scope in scopes for term in wanted]
        sizes = await self._each([*calls, *(("HLEN", f"{_base(scope)}records") for scope in scopes)])
        frequencies = {term: sum(sizes[at : len(calls) : len(wanted)]) for at, term in enumerate(wanted)}
        weight = words.weights(frequencies, sum(sizes[len(calls) :]))
        rarest = sorted(weight, key=lambda term: (frequencies[term], term))
        if not rarest:
            return []
        selects = where.selects
        enough, looked = words.pool(count), _LOOKED_FILTERED if selects else _LOOKED
        asked = (_LOOKED_FILTERED if selects else 2 * enough, looked, *rarest)
        answers = await self._together(self._script("words", scope, *asked) for scope in scopes)
        matches = []
        for scope, answer in zip(scopes, answers, strict=True):
            for name, kept in zip(answer[::2], answer[1::2], strict=True):
                facts = Facts(*json.loads(kept))
                if where.matches(facts):
                    matches.append(Match(scope, name, words.score(facts.terms.split(" "), weight)))
        return sorted(matches, key=lambda match: (-match.score, match.scope, match.name))[:count]

    async def _newest(self, scope: str, count: int, where: Where, before: Place | None) -> list[Match]:
        """Those of one scope. Redis orders pictures of one time by name, backwards, so all of a time are read."""
        latest = where.created_to if before is None else before.created_at
        top: float | str = "+inf" if latest is None else latest
        found: list[Match] = []
        while len(found) < count:
            call = ("ZRANGE", f"{_base(scope)}created", top, "-inf", "BYSCORE", "REV", "LIMIT", 0, _TOGETHER)
            (page,) = await self._each([(*call, "WITHSCORES")])
            times = _scored(page)
            if not times:
                break
            last = times[-1][1]
            (same,) = await self._each([("ZRANGE", call[1], last, last, "BYSCORE", "WITHSCORES")])
            pairs = {**dict(times), **dict(_scored(same))}
            facts = await self._each([("HMGET", f"{_base(scope)}facts", *pairs)])
            for (name, created), kept in zip(pairs.items(), facts[0], strict=True):
                is_after = before is None or (-created, name) > (-before.created_at, before.name)
                if kept and is_after and where.matches(Facts(*json.loads(kept))):
                    found.append(Match(scope, name, created))
            top = f"({last!r}"
        return in_time(found)[:count]

    async def _similar(
        self, scopes: list[str], raw: bytes, count: int, where: Where
    ) -> list[list[tuple[str, float]]]:
        """Names and scores of the nearest pictures of each scope."""
        # A filter costs some microseconds for every picture that a search comes by. Expiry is therefore looked up afterwards,
        # for those that were found. A search also ends early where a filter lets few through: then all are compared.
        rule = filter_of(where)
        looser = where.alive_at is not None and not where.selects
        asked = count + count // 4 + _SLACK if looser else count
        answers = await self._each(
            [
                *(_vsim(scope, raw, asked, () if looser else rule) for scope in scopes),
                *(("VCARD", f"{_base(scope)}vectors") for scope in scopes),
            ]
        )
        found = [_scored(each) for each in answers[: len(scopes)]]
        cardinalities = [int(size) for size in answers[len(scopes) :]]
        if looser and where.alive_at is not None:
            found = await self._alive(scopes, found, where.alive_at)
        for more in (rule, (*rule, "TRUTH")) if looser else ((*rule, "TRUTH"),):
            short = [at for at, each in enumerate(found) if len(each) < min(count, cardinalities[at])]
            again = await self._each([_vsim(scopes[at], raw, count, more) for at in short])
            for at, answer in zip(short, again, strict=True):
                found[at] = _scored(answer)
        return found

    async def _alive(
        self, scopes: list[str], found: list[list[tuple[str, float]]], now: float
    ) -> list[list[tuple[str, float]]]:
        """Those that have not expired."""
        asked = [at for at, each in enumerate(found) if each]
        calls = [("ZMSCORE", f"{_base(scopes[at])}expiry", *(name for name, _ in found[at])) for at in asked]
        left = list(found)
        for at, times in zip(asked, await self._each(calls), strict=True):
            left[at] = [
                each
                for each, expires in zip(found[at], times, strict=True)
                if expires is not None and float(expires) > now
            ]
        return left

    async def _require_vector_sets(self) -> None:
        client: Any = self._client
        async with self._errors():
            try:
                await client.execute_command("VCARD", f"{PREFIX}probe")
                return
            except ResponseError as error:
                if "unknown command" not in str(error).lower():
                    raise
            told = await client.info("server")
        server = told if "redis_version" in told else next(iter(told.values()))
        name = (
            f"Valkey {server['valkey_version']}"
            if "valkey_version" in server
            else f"Redis {server['redis_version']}"
        )
        raise VectorSetsMissing(
            f"The search index needs vector sets, which {name} does not have. Use Redis 8 or newer, `embedded:FOLDER` or "
            "`postgresql://` (DARKROOM_SEARCH_INDEX)."
        )

    async def _claim(self) -> None:
        ours = {"clip": self._clip, "dimensions": self._dimensions}
        async with self._errors():
            found: Any = await self._client.set(_META, json.dumps(ours), nx=True, get=True)
        if found and json.loads(found) != ours:
            told = json.loads(found)
            raise IndexMismatch(
                f"The search index on Redis holds vectors of {told.get('clip')} with {told.get('dimensions')} dimensions, "
                f"and not of {self._clip} with {self._dimensions}. {REBUILD}"
            )

    async def _forget_all(self) -> None:
        async for names in pages(self._client, _WHAT, self._timeout_s, f"{PREFIX}*", 1000):
            async with self._errors(), self._client.pipeline(transaction=False) as pipeline:
                for name in names:
                    unlink(pipeline, name)
                await pipeline.execute()

    async def _all_scopes(self) -> list[str]:
        async with self._errors():
            return sorted(await cast("Awaitable[set[str]]", self._client.smembers(_SCOPES)))

    async def _each(self, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers of the calls, in one trip."""
        client: Any = self._client
        if not calls:
            return []
        async with self._errors():
            if len(calls) == 1:
                return [await client.execute_command(*calls[0])]
            async with client.pipeline(transaction=False) as pipeline:
                for call in calls:
                    pipeline.execute_command(*call)
                return list(await pipeline.execute())

    async def _script(self, name: str, scope: str, *arguments: Any) -> Any:
        client = self._client
        script = client.register_script(_source(name))
        async with self._errors():
            return await script(keys=[_base(scope)], args=list(arguments))

    async def _together(self, calls: Iterable[Awaitable[T]]) -> list[T]:
        return list(await asyncio.gather(*calls))


@cache
def _source(name: str) -> str:
    return (files("search") / "lua" / f"{name}.lua").read_text()


@cache
def _base(scope: str) -> str:
    """The prefix of a scope's keys. The quoting keeps braces out of the hash tag."""
    return f"{PREFIX}{{s:{quote(scope, safe=':')}}}:"


def _vsim(scope: str, raw: bytes, count: int, rule: tuple[str, ...]) -> tuple[Any, ...]:
    effort = ("EF", max(_EFFORT, count))
    return ("VSIM", f"{_base(scope)}vectors", "FP32", raw, "WITHSCORES", "COUNT", count, *effort, *rule)


def _known(scopes: Sequence[str]) -> list[str]:
    return [scope for scope in dict.fromkeys(scopes) if vectors.is_scope(scope)]


def _scored(answer: Any) -> list[tuple[str, float]]:
    """Pairs of name and score, whatever the protocol made of them."""
    if isinstance(answer, dict):
        return [(name, float(score)) for name, score in answer.items()]
    if answer and isinstance(answer[0], list | tuple):
        return [(name, float(score)) for name, score in answer]
    return [(name, float(score)) for name, score in zip(answer[::2], answer[1::2], strict=True)]


def _chunks(items: list[T]) -> Iterable[list[T]]:
    return (items[at : at + _TOGETHER] for at in range(0, len(items), _TOGETHER))

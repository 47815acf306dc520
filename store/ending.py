"""Ends: the jobs of a whole batch in one call of `lua/end.lua`, and its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from cache.results import RedisResultCache
from contracts.errors import ContentBlocked, StoreFull, StoreUnavailable
from contracts.jobs import JobResult, JobStatus
from contracts.reviews import HeldImage
from contracts.transitions import End, EndAnswer, Finished
from runtime import tasks
from store.groups import run_many
from store.key_names import Layout
from store.pictures import record_parts
from store.records import messages_of, paired
from store.scripts import Scripts
from telemetry import metrics
from telemetry.logs import get_logger

MAX_KEEPING: Final = 256
"""Results on their way to a cache on another server. Beyond that, results are not cached."""
CLOSE_S: Final = 1.0
"""Seconds that `close` waits for these results."""

log = get_logger(__name__)


class Ending:
    """Ends jobs in groups. `results` is the cache. `together`: the script reaches the cache."""

    def __init__(
        self, scripts: Scripts, layout: Layout, results: RedisResultCache, *, together: bool
    ) -> None:
        self._scripts = scripts
        self._layout = layout
        self._results = results
        self._together = together
        self._caching: set[asyncio.Task[None]] = set()

    async def end(self, ends: Sequence[End]) -> list[EndAnswer]:
        """An answer for each end, in their order. An error is an answer."""
        documents = [self._document(end) for end in ends]
        answers = [
            self._parse_answer(answer)
            for answer in await run_many(self._scripts, self._layout, "end", documents)
        ]
        if not self._together:
            for end, answer in zip(ends, answers, strict=True):
                self._cache_later(end, answer)
        return answers

    async def close(self) -> None:
        """Waits up to `CLOSE_S` seconds for results on their way to the cache."""
        if self._caching:
            _, late = await asyncio.wait(self._caching, timeout=CLOSE_S)
            await tasks.end(*late)

    def _document(self, end: End) -> dict[str, Any]:
        document: dict[str, Any] = {"id": end.lease.job_id, "attempt": end.lease.attempt}
        if end.outcome is None:
            return document | {"status": JobStatus.EXPIRED.value}
        text = end.outcome.model_dump_json()
        if not isinstance(end.outcome, JobResult):
            failed = document | {"status": JobStatus.FAILED.value, "failure": text}
            return failed | {"blocked": end.refund} if end.outcome.code == ContentBlocked.code else failed
        document |= {"status": JobStatus.SUCCEEDED.value, "result": text}
        if not all(image.shown for image in end.outcome.images):
            document["hidden"] = True
        elif self._together and end.address is not None:
            document |= {"address": end.address, "ttl_ms": self._results.ttl_ms}
        if end.pictures:
            document["pictures"] = [record_parts(picture) for picture in end.pictures]
        if end.held:
            document["held"] = [held_parts(image) for image in end.held]
        return document

    def _parse_answer(self, answer: Any) -> EndAnswer:
        match answer:
            case Exception():
                return answer
            case [1, promoted]:
                return Finished(True, messages_of(map(paired, promoted)))
            case [1, promoted, unrecorded]:
                metrics.EMBEDDINGS.labels("no_room").inc(unrecorded)
                return Finished(True, messages_of(map(paired, promoted)))
            case [0]:
                return Finished(applied=False)
            case ["failed", words]:
                return self._scripts.fault(words)
        raise AssertionError(answer)

    def _cache_later(self, end: End, answer: EndAnswer) -> None:
        """Puts a result into a cache that the script does not reach. The end does not wait for
        it."""
        if end.address is None or not isinstance(end.outcome, JobResult):
            return
        if not all(image.shown for image in end.outcome.images):
            return
        if not (isinstance(answer, Finished) and answer.applied):
            return
        if len(self._caching) >= MAX_KEEPING:
            metrics.REPAIRED.labels("cache_fill").inc()
            return
        task = asyncio.create_task(self._cache(end.address, end.outcome), name="keep")
        self._caching.add(task)
        task.add_done_callback(self._caching.discard)

    async def _cache(self, address: str, result: JobResult) -> None:
        """Puts the result into the cache. If that fails, the next request computes it again."""
        try:
            await self._results.put(address, result)
        except StoreFull:
            metrics.REPAIRED.labels("store_full").inc()
        except StoreUnavailable:
            metrics.REPAIRED.labels("cache_fill").inc()
        except Exception as error:  # noqa: BLE001 - the job has ended well
            log.error("result_not_kept", error=type(error).__name__)


def held_parts(image: HeldImage) -> dict[str, Any]:
    """What `lua/end.lua` records of a held image."""
    return {
        "name": image.name,
        "indexes": ",".join(map(str, image.indexes)),
        "severity": image.severity,
        "keep_s": image.keep_s,
        "case": image.case.model_dump_json(),
        "second_look": image.second_look,
        "released": image.released,
    }

"""Ends: what is asked of `lua/end.lua`, the jobs of a whole pass in one call, and what its answers come to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from cache.results import RedisResultCache
from contracts import tasks
from contracts.errors import StoreFull, StoreUnavailable
from contracts.jobs import JobResult, JobStatus
from contracts.transitions import End, EndAnswer, Finished
from store.groups import run_many
from store.key_names import Layout
from store.records import messages_of, paired
from store.scripts import Scripts
from telemetry import metrics
from telemetry.logs import get_logger

MAX_KEEPING: Final = 256
"""Results on their way to a cache that is elsewhere; one more is left out."""
CLOSE_S: Final = 1.0

log = get_logger(__name__)


class Ending:
    """Ends jobs by groups. `results` is the cache; `together`: it is within the script's reach."""

    def __init__(
        self, scripts: Scripts, layout: Layout, results: RedisResultCache, *, together: bool
    ) -> None:
        self._scripts = scripts
        self._layout = layout
        self._results = results
        self._together = together
        self._keeping: set[asyncio.Task[None]] = set()

    async def end(self, ends: Sequence[End]) -> list[EndAnswer]:
        """An answer for each, in their order."""
        documents = [self._document(each) for each in ends]
        answers = [self._read(each) for each in await run_many(self._scripts, self._layout, "end", documents)]
        if not self._together:
            for each, answer in zip(ends, answers, strict=True):
                self._keep_later(each, answer)
        return answers

    async def close(self) -> None:
        """What is on its way to the cache has a moment to arrive."""
        if self._keeping:
            _, late = await asyncio.wait(self._keeping, timeout=CLOSE_S)
            await tasks.end(*late)

    def _document(self, end: End) -> dict[str, Any]:
        document: dict[str, Any] = {"id": end.lease.job_id, "attempt": end.lease.attempt}
        if end.outcome is None:
            return document | {"status": JobStatus.EXPIRED.value}
        text = end.outcome.model_dump_json()
        if not isinstance(end.outcome, JobResult):
            return document | {"status": JobStatus.FAILED.value, "failure": text}
        document |= {"status": JobStatus.SUCCEEDED.value, "result": text}
        if self._together and end.address is not None:
            document |= {"address": end.address, "ttl_ms": self._results.ttl_ms}
        return document

    def _read(self, answer: Any) -> EndAnswer:
        match answer:
            case Exception():
                return answer
            case [1, promoted]:
                return Finished(True, messages_of(map(paired, promoted)))
            case [0]:
                return Finished(applied=False)
            case ["failed", words]:
                return self._scripts.fault(words)
        raise AssertionError(answer)

    def _keep_later(self, end: End, answer: EndAnswer) -> None:
        """Puts a result into a cache that is elsewhere, for whose sake no end waits."""
        if end.address is None or not isinstance(end.outcome, JobResult):
            return
        if not (isinstance(answer, Finished) and answer.applied):
            return
        if len(self._keeping) >= MAX_KEEPING:
            metrics.REPAIRED.labels("cache_fill").inc()
            return
        task = asyncio.create_task(self._keep(end.address, end.outcome), name="keep")
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _keep(self, address: str, result: JobResult) -> None:
        """One that finds no place is computed again when it is asked for."""
        try:
            await self._results.put(address, result)
        except StoreFull:
            metrics.REPAIRED.labels("store_full").inc()
        except StoreUnavailable:
            metrics.REPAIRED.labels("cache_fill").inc()
        except Exception as error:  # noqa: BLE001 - the job has ended well
            log.error("result_not_kept", error=type(error).__name__)

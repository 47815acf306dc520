"""The response bodies of cache hits, serialised once for each result.

Between two hits only the id and the times differ.
"""

from __future__ import annotations

import secrets
from typing import Final

from contracts.jobs import Job, JobResult
from contracts.requests import GenerationRequest
from runtime.lru import LruCache
from views.job import job_view

MAX_BODIES: Final = 4096
"""How many bodies are kept."""
MAX_CHARS: Final = 8192
"""The longest body that is kept, in characters."""


class HitResponseCache:
    """The JSON (`JobView`) of jobs that the cache answered.

    Bounded in the number of entries and in their length.
    """

    def __init__(self) -> None:
        # Placeholders for the id and the times. They are random: no prompt can contain them on purpose.
        self._id = f"job_{secrets.token_hex(16)}"
        self._time = float(10**15 + secrets.randbelow(10**15))
        self._parts = LruCache[tuple[int, int], tuple[GenerationRequest, JobResult, list[list[str]]]](
            MAX_BODIES
        )

    def body(self, job: Job) -> str:
        """The JSON of `job`, a cache hit.

        Frequent requests and results are the same objects each time, so an entry is found by their
        identities. The entry holds both objects, so no other object can get the same identity.
        """
        result = job.result
        request = job.request
        if result is None or request.metadata or request.similar:  # these differ from hit to hit
            return job_view(job, None, None).model_dump_json()
        known = self._parts.get((id(job.request), id(result)))
        if known is None:
            known = job.request, result, self._split(job)
            if sum(len(part) for parts in known[2] for part in parts) <= MAX_CHARS:
                self._parts[id(job.request), id(result)] = known
        time = repr(job.created_at)
        return job.id.join([time.join(parts) for parts in known[2]])

    def _split(self, job: Job) -> list[list[str]]:
        """The JSON, split at the places of the id, and each part split at the places of the time."""
        stamps = {"id": self._id, **dict.fromkeys(("created_at", "started_at", "finished_at"), self._time)}
        text = job_view(job.model_copy(update=stamps), None, None).model_dump_json()
        return [part.split(repr(self._time)) for part in text.split(self._id)]

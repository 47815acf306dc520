"""The bodies of cache hits, written once per picture: only the id and the times of one hit differ from those of the next."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import Final

from contracts.jobs import Job, JobResult
from contracts.requests import GenerationRequest
from views.job import job_view

MAX_BODIES: Final = 4096
MAX_CHARS: Final = 8192


class HitResponseCache:
    """The JSON of jobs that were born succeeded, as `JobView` has it. Bounded by entries and by their length."""

    def __init__(self) -> None:
        # Stand in for what differs; nobody who sends a prompt can know them.
        self._id = f"job_{secrets.token_hex(16)}"
        self._time = float(10**15 + secrets.randbelow(10**15))
        self._parts: OrderedDict[tuple[int, int], tuple[GenerationRequest, JobResult, list[list[str]]]] = (
            OrderedDict()
        )

    def body(self, job: Job) -> str:
        """The JSON of `job`, a hit. Hot requests and results are the same objects each time: they are known by identity, and
        held, so that no other object can take theirs."""
        result = job.result
        if result is None or job.request.metadata:  # its own: the next hit has another
            return job_view(job, None, None).model_dump_json()
        known = self._parts.get((id(job.request), id(result)))
        if known is None:
            known = job.request, result, self._split(job)
            if sum(len(part) for parts in known[2] for part in parts) <= MAX_CHARS:
                self._parts[id(job.request), id(result)] = known
                if len(self._parts) > MAX_BODIES:
                    self._parts.popitem(last=False)
        time = repr(job.created_at)
        return job.id.join([time.join(parts) for parts in known[2]])

    def _split(self, job: Job) -> list[list[str]]:
        """What lies between the places of the id, and in each of these what lies between those of the time."""
        stamps = {"id": self._id, **dict.fromkeys(("created_at", "started_at", "finished_at"), self._time)}
        text = job_view(job.model_copy(update=stamps), None, None).model_dump_json()
        return [part.split(repr(self._time)) for part in text.split(self._id)]

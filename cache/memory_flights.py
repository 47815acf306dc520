"""Records and flights of the job store in memory, and the moves that its transitions share: the twin of `lua/prelude.lua`."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

from cache.events import Watchers
from cache.memory_channel import Channel
from cache.memory_records import Flight, Keeper, Marks, Record, new_job
from cache.memory_webhooks import MemoryWebhookStore
from contracts.clock import Clock
from contracts.ids import shard_of
from contracts.jobs import Change, Job, JobFailure, JobMessage, JobStatus, Lease
from contracts.settings import BackendSettings
from scheduler.fairness import FairClock

MAX_PROMOTIONS = 2  # as in lua/prelude.lua
LANDED_GRACE_S = 10.0


class MemoryFlights:
    """What the job store in memory remembers. Nothing here waits."""

    def __init__(
        self,
        settings: BackendSettings,
        clock: Clock,
        watchers: Watchers,
        canceled: Channel,
        webhooks: MemoryWebhookStore,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._watchers = watchers
        self._canceled = canceled
        self._workers: dict[str, str] = {}
        self._webhooks = webhooks
        self._records: dict[str, Record] = {}
        self._withdrawn: set[str] = set()
        self._flights: dict[str, Flight] = {}
        self._outbox: dict[str, float] = {}
        self._keeper = Keeper()
        self._marks = Marks()
        self._clocks: dict[str, FairClock] = defaultdict(FairClock)

    def _waits(self, model: str) -> list[Job]:
        leaders = [flight.leader for flight in self._flights.values() if self._live(flight.leader)]
        jobs = [self._records[leader].job for leader in leaders]
        return [job for job in jobs if job.status is JobStatus.QUEUED and job.request.model == model]

    def _kept(self, job_id: str) -> Record | None:
        record = self._records.get(job_id)
        if record is not None:
            ended = record.job.finished_at or record.job.deadline
            keep_s = max(self._settings.job_retention_s, self._webhooks.keep_s(job_id))
            if ended + keep_s < self._clock.now():
                del self._records[job_id]
                return None
        return record

    def _rebuild(self, message: JobMessage) -> None:
        # Its deadline may be of a clock that was ahead.
        latest = self._clock.now() + message.deadline - message.created_at
        job = new_job(message.job_id, message, message.created_at, min(message.deadline, latest))
        self._records[job.id] = Record(job)
        flight = self._flight(job.key)
        if flight is None or not self._live(flight.leader):
            self._lead(job.id, 0)

    def _flight(self, key: str) -> Flight | None:
        flight = self._flights.get(key)
        if flight and flight.result and flight.landed_at + LANDED_GRACE_S <= self._clock.now():
            del self._flights[key]
            return None
        return flight

    def _left(self, job_id: str) -> float:
        """What is left of a job's deadline, in seconds."""
        return self._marks.left(shard_of(job_id), self._records[job_id].job.deadline, self._clock.now())

    def _live(self, job_id: str) -> bool:
        record = self._records.get(job_id)
        return record is not None and not record.job.status.terminal and job_id not in self._withdrawn

    def _lead(self, job_id: str, promotions: int) -> None:
        record = self._records[job_id]
        record.job = record.job.model_copy(update={"progress": None})
        key = record.job.key
        flight = self._flights.get(key)
        followers = flight.followers if flight else deque[str]()
        self._flights[key] = Flight(job_id, promotions, followers)

    def _led(self, job_id: str) -> Flight | None:
        flight = self._flights.get(self._records[job_id].job.key)
        return flight if flight and flight.leader == job_id else None

    def _fenced(self, lease: Lease) -> Record | None:
        record = self._records.get(lease.job_id)
        if (
            record is None
            or record.job.status is not JobStatus.RUNNING
            or record.job.attempt != lease.attempt
        ):
            return None
        return record

    def _finish(self, job_id: str, status: JobStatus, **fields: object) -> None:
        record = self._records[job_id]
        stamps = {"status": status, "finished_at": self._clock.now()}
        record.job = record.job.model_copy(update=stamps | fields)
        self._outbox.pop(job_id, None)
        self._webhooks.owe(record.job)
        self._announce(job_id, status)

    def _announce(self, job_id: str, change: Change) -> None:
        record = self._records[job_id]
        record.job = record.job.model_copy(update={"sequence": record.job.sequence + 1})
        self._watchers.tell(job_id, change)

    def _hand_over(self, job_id: str, failure: JobFailure | None) -> Sequence[str]:
        flight = self._led(job_id)
        if flight is None:
            other = self._flights.get(self._records[job_id].job.key)
            if other and job_id in other.followers:
                other.followers.remove(job_id)
            return []
        while flight.followers:
            follower = flight.followers.popleft()
            if not self._live(follower):
                continue
            if failure is not None and flight.promotions >= MAX_PROMOTIONS:
                self._finish(follower, JobStatus.FAILED, failure=failure)
                continue
            # With the turn of the one before.
            heir = self._records[follower]
            heir.job = heir.job.model_copy(update={"tag": self._records[job_id].job.tag})
            self._lead(follower, flight.promotions + (failure is not None))
            self._outbox[follower] = self._clock.now()
            return [follower]
        del self._flights[self._records[job_id].job.key]
        return []

    def _messages(self, job_ids: Sequence[str]) -> tuple[JobMessage, ...]:
        return tuple(self._records[job_id].job.message() for job_id in job_ids)

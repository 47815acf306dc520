"""The job store in memory: the twin of the Redis scripts, transition by transition."""

from __future__ import annotations

from collections.abc import Sequence

from cache.jobs import EXHAUSTED, MAX_TOLD, NOTHING, STALE_S, absent
from cache.memory_flights import MemoryFlights
from cache.memory_records import STEP_S, Record, new_job, place
from contracts.errors import QueueFull
from contracts.ids import SHARDS, created_at, shard_of
from contracts.jobs import (
    CacheStatus,
    Job,
    JobFailure,
    JobMessage,
    JobResult,
    JobStatus,
    Lease,
    NewJob,
    Preview,
    Progress,
)
from contracts.ports import Busy, Claim, Ended, Finished, Granted, Submitted, Taken, TakenJob
from scheduler.fairness import flow_of


class MemoryJobStore(MemoryFlights):
    """The `JobStore` in memory. No method waits between its reads and its writes, so each is atomic."""

    async def submit(
        self, new: NewJob, result: JobResult | None = None, *, may_lead: bool = True
    ) -> Submitted:
        known = self._records.get(new.id)
        if known is not None:
            return Submitted(known.job, lead=new.id in self._outbox)
        now = self._clock.now()
        job = new_job(new.id, new, now, now + new.ttl_s)
        clock, flow = self._clocks[new.request.model], flow_of(new.tenant, new.priority)
        if needs_turn := result is None:
            job = job.model_copy(update={"tag": clock.ticket(flow, new.cost, new.weight)})
        flight = self._flight(new.key)
        result = result or (flight.result if flight else None)
        following = flight is not None and self._live(flight.leader)
        if needs_turn and (result or following or not may_lead):
            clock.give_back(flow, new.cost, new.weight)
        if result is None and not following and not may_lead:
            raise QueueFull("No more computations are taken.")
        record = self._records[new.id] = Record(job)
        if result is not None:
            record.job = job.model_copy(
                update={"cache": CacheStatus.HIT, "result": result, "started_at": now}
            )
            self._finish(new.id, JobStatus.SUCCEEDED)
        elif flight is not None and self._live(flight.leader):
            record.job = job.model_copy(update={"cache": CacheStatus.JOINED})
            flight.followers.append(new.id)
        else:
            self._lead(new.id, 0)
            self._outbox[new.id] = now
        return Submitted(record.job, lead=new.id in self._outbox)

    async def confirm(self, job_id: str) -> None:
        self._outbox.pop(job_id, None)

    async def withdraw(self, job_id: str) -> Finished:
        record = self._records.get(job_id)
        if record is None or job_id in self._withdrawn or record.job.status is not JobStatus.QUEUED:
            return NOTHING
        self._outbox.pop(job_id, None)
        self._withdrawn.add(job_id)
        return Finished(True, self._messages(self._hand_over(job_id, None)))

    async def get(self, tenant: str, job_id: str) -> Job:
        record = self._kept(job_id)
        if record is None or record.job.tenant != tenant or job_id in self._withdrawn:
            raise absent(job_id, self._clock.now(), self._settings.job_retention_s)
        return record.job

    async def owner(self, job_id: str) -> str | None:
        record = self._kept(job_id)
        return None if record is None else record.job.tenant

    async def statuses(self, job_ids: Sequence[str]) -> Sequence[JobStatus | None]:
        records = [(job_id, self._kept(job_id)) for job_id in job_ids]
        return [
            None if record is None else JobStatus.CANCELED if job_id in self._withdrawn else record.job.status
            for job_id, record in records
        ]

    async def list(self, tenant: str, limit: int, before: str | None = None) -> Sequence[Job]:
        mine = [
            record.job
            for job_id in list(self._records)
            if (record := self._kept(job_id))
            and record.job.tenant == tenant
            and job_id not in self._withdrawn
        ]
        mine.sort(key=lambda job: (job.created_at, job.id), reverse=True)
        if before is not None:
            known = before in self._records and before not in self._withdrawn
            last = self._records[before].job.created_at if known else created_at(before)
            mine = [job for job in mine if (job.created_at, job.id) < (last, before)]
        return mine[:limit]

    async def take(self, model: str, worker_id: str, limit: int) -> Taken:
        taken, promoted = list[TakenJob](), list[JobMessage]()
        for job in sorted(self._waits(model), key=place)[:limit]:
            claim = self._grant(job.id, worker_id)
            if isinstance(claim, Granted):
                taken.append(TakenJob(job.message(), claim.lease, job.tag))
                self._clocks[model].served(job.tag)
            elif isinstance(claim, Ended):
                promoted += claim.promoted
        return Taken(tuple(taken), tuple(promoted))

    async def claim(self, message: JobMessage, worker_id: str, *, leave_waiting: bool = False) -> Claim:
        if self._kept(message.job_id) is None:
            # So old that it would be forgotten at once.
            if message.deadline + self._settings.job_retention_s <= self._clock.now():
                return Ended(JobStatus.EXPIRED)
            self._rebuild(message)
        self._outbox.pop(message.job_id, None)
        job = self._records[message.job_id].job
        if leave_waiting and self._left(job.id) > 0 and job in self._waits(job.request.model):
            return Busy(1.0)
        return self._grant(message.job_id, worker_id)

    def _grant(self, job_id: str, worker_id: str) -> Claim:
        now, record = self._clock.now(), self._records[job_id]
        job = record.job
        if job_id in self._withdrawn:
            return Ended(JobStatus.CANCELED)
        if job.status.terminal:
            return Ended(job.status)
        left_s = self._left(job.id)
        if left_s <= 0:
            self._finish(job.id, JobStatus.EXPIRED)
            return Ended(JobStatus.EXPIRED, self._messages(self._hand_over(job.id, None)))
        if job.status is JobStatus.RUNNING and record.lease_until > now:
            record.lease_until = min(record.lease_until, now + self._settings.lease_s)
            return Busy(record.lease_until - now)
        if job.attempt - record.uncounted >= self._settings.max_attempts:
            self._finish(job.id, JobStatus.FAILED, failure=record.fault or EXHAUSTED)
            return Ended(JobStatus.FAILED, self._messages(self._hand_over(job.id, record.fault or EXHAUSTED)))
        started = now if job.started_at is None else job.started_at
        record.lease_until, record.fault = now + self._settings.lease_s, None
        self._workers[job_id] = worker_id
        record.job = job.model_copy(
            update={
                "status": JobStatus.RUNNING,
                "attempt": job.attempt + 1,
                "started_at": started,
                "progress": None,
            }
        )
        self._announce(job.id, JobStatus.RUNNING)
        return Granted(
            Lease(
                job_id=job.id,
                attempt=record.job.attempt,
                started_at=started,
                claimed_at=now,
                deadline=now + left_s,
            )
        )

    async def renew(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        now = self._clock.now()
        void = []
        for lease in leases:
            record = self._fenced(lease)
            if record is None or self._left(lease.job_id) <= 0:
                void.append(lease)
            else:
                record.lease_until = now + self._settings.lease_s
        return void

    async def release(self, lease: Lease, *, fault: JobFailure | None = None) -> bool:
        record = self._fenced(lease)
        if record is None:
            return False
        record.uncounted += fault is None
        record.lease_until, record.fault = 0.0, fault
        self._wait_again(record)
        return True

    def _wait_again(self, record: Record) -> None:
        record.job = record.job.model_copy(update={"status": JobStatus.QUEUED, "progress": None})
        self._announce(record.job.id, JobStatus.QUEUED)

    async def progress(self, lease: Lease, step: int, steps: int) -> bool:
        if self._fenced(lease) is None:
            return False
        for job_id in self._watched(lease.job_id):
            record, progress = self._records[job_id], Progress(step=step, steps=steps)
            record.job = record.job.model_copy(update={"progress": progress})
            self._announce(job_id, progress)
        return True

    async def preview(self, lease: Lease, preview: Preview) -> bool:
        held = self._fenced(lease) is not None
        for job_id in self._watched(lease.job_id) if held else ():
            self._watchers.tell(job_id, preview)
        return held

    def _watched(self, job_id: str) -> Sequence[str]:
        flight = self._led(job_id)
        return [job_id, *filter(self._live, list(flight.followers)[:MAX_TOLD] if flight else [])]

    async def succeed(self, lease: Lease, result: JobResult) -> Finished:
        record = self._fenced(lease)
        if record is None:
            return NOTHING
        self._finish(lease.job_id, JobStatus.SUCCEEDED, result=result)
        flight = self._led(lease.job_id)
        if flight is not None:
            begun = record.job.started_at or 0.0
            while flight.followers:
                other = flight.followers.popleft()
                if self._live(other):
                    started = max(begun, self._records[other].job.created_at)
                    self._finish(other, JobStatus.SUCCEEDED, result=result, started_at=started)
            flight.result, flight.landed_at = result, self._clock.now()
        return Finished(True)

    async def fail(self, lease: Lease, failure: JobFailure) -> Finished:
        if self._fenced(lease) is None:
            return NOTHING
        self._finish(lease.job_id, JobStatus.FAILED, failure=failure)
        return Finished(True, self._messages(self._hand_over(lease.job_id, failure)))

    async def expire(self, lease: Lease) -> Finished:
        if self._fenced(lease) is None:
            return NOTHING
        self._finish(lease.job_id, JobStatus.EXPIRED)
        return Finished(True, self._messages(self._hand_over(lease.job_id, None)))

    async def cancel(self, tenant: str, job_id: str) -> tuple[Job, Finished]:
        job = await self.get(tenant, job_id)
        if job.status.terminal:
            return job, NOTHING
        if job.status is JobStatus.RUNNING:
            self._canceled.say(self._workers[job_id], job_id)
        self._finish(job_id, JobStatus.CANCELED)
        finished = Finished(True, self._messages(self._hand_over(job_id, None)))
        return self._records[job_id].job, finished

    shards: Sequence[str] = SHARDS

    async def sweep(self, shard: str, limit: int) -> tuple[Sequence[JobMessage], Sequence[JobMessage]]:
        now = self._clock.now()
        mine = [job_id for job_id in self._records if shard_of(job_id) == shard]
        late = [i for i in mine if self._live(i) and self._left(i) <= 0]
        promoted: list[str] = []
        for job_id in sorted(late, key=lambda i: self._records[i].job.deadline)[:limit]:
            if self._live(job_id):
                self._finish(job_id, JobStatus.EXPIRED)
                promoted += self._hand_over(job_id, None)
        stale = [i for i in mine if self._outbox.get(i, now) <= now - STALE_S][:limit]
        for job_id in mine:
            record = self._records[job_id]
            if record.job.status is JobStatus.RUNNING and record.lease_until <= now:
                self._wait_again(record)
            if record.lease_until and record.lease_until <= now - self._settings.lease_s:
                record.lease_until = 0.0
                if self._live(job_id) and job_id not in self._outbox:
                    stale.append(job_id)
        self._outbox.update(dict.fromkeys(stale, now))
        return self._messages(stale), self._messages(promoted)

    async def steady(self, shard: str, elapsed_s: float | None) -> float:
        now = self._clock.now()
        step_s = self._marks.step(shard, now, elapsed_s)
        if not step_s:
            return 0.0
        since = now - (elapsed_s or 0.0) - STEP_S
        for job_id, record in self._records.items():
            if shard_of(job_id) != shard or not self._live(job_id):
                continue
            if not since <= record.job.created_at <= now:
                deadline = record.job.deadline + step_s
                record.job = record.job.model_copy(update={"deadline": deadline})
            if record.lease_until:
                record.lease_until = now + self._settings.lease_s
            if job_id in self._outbox:
                self._outbox[job_id] = now
        self._webhooks.shift(shard, step_s, since)
        return step_s

    async def forget_landed(self, keys: Sequence[str]) -> None:
        for key in keys:
            if (flight := self._flights.get(key)) is not None and flight.result is not None:
                del self._flights[key]

    async def elect(self, name: str, lease_s: float) -> bool:
        return self._keeper.elect(name, self._clock.now(), lease_s)

    async def waiting(self, model: str, job_ids: Sequence[str] = ()) -> tuple[int, Sequence[int | None]]:
        places = {job.id: place(job) for job in self._waits(model)}
        ahead = [sum(each < places[i] for each in places.values()) if i in places else None for i in job_ids]
        return len(places), ahead

    async def leaders(self, keys: Sequence[str]) -> Sequence[str | None]:
        return [flight.leader if (flight := self._flight(key)) else None for key in keys]

    async def ahead(self, model: str, flow: str) -> int:
        tag = self._clocks[model].next_tag(flow)
        return sum(job.tag <= tag for job in self._waits(model))

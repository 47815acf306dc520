"""A scan: applies the policy in force to everything that is stored, cached or recorded.

A page of records is judged and acted upon, and then the cursor moves on. What a scan makes of an image is recorded
before it acts. So a scan that goes on after its process has died does a page again, changes nothing twice, and
counts nothing twice.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from backends.blobs import HELD
from contracts.errors import StoreUnavailable
from contracts.moderation import Verdict
from contracts.pictures import PictureRecord
from contracts.ports.clock import Clock
from contracts.ports.picture_judge import Look
from contracts.reviews import PastDecision, ReviewState
from contracts.scans import GRAVITY, TAKEN_AWAY, Outcome, Phase, Scan, Scope, Seen
from moderation.held import by_model, lead_of
from moderation.places import (
    OUTCOMES,
    Place,
    WordFinder,
    decided,
    judged,
    place_of_record,
    places_of_job,
)
from moderation.policy import Policy
from moderation.scan_trail import entry_of
from moderation.stored_pictures import StoredPictures
from moderation.withdrawing import WHENEVER, Withdrawal
from store.stores import Stores

LEASE_S: Final = 30.0
"""For how long the right to scan stays with a process that has died."""
FILES: Final = 100
"""Files of one page."""
TOGETHER: Final = 16
"""Images that are judged between two records of the progress."""
LATE_S: Final = 60.0
"""Jobs of so long before the scan are looked at again at its end: the clocks of two machines differ."""
TURNS: Final = 3
"""How often a phase is done while the store is started anew under it."""

OnProgress = Callable[[Scan], object]


class ScanRunning(Exception):
    """Another process scans. The message is for a person."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The policy that is applied, its words (None: it has none), and the digest of all that looks by it."""

    policy: Policy
    words: WordFinder | None
    looks: str
    clip: str = ""


class Scanner:
    """Runs a scan. Only one process at a time may."""

    def __init__(
        self,
        stores: Stores,
        rules: Rules,
        pictures: StoredPictures,
        clock: Clock,
        *,
        by: str,
        keep_s: float,
        on_progress: OnProgress = lambda _: None,
        lease_s: float = LEASE_S,
    ) -> None:
        """`keep_s`: for how many seconds images are kept. `by`: who scans, for the audit trail. The right to scan stays for
        `lease_s` seconds with a process that has died."""
        self._stores = stores
        self._scans = stores.scans
        self._rules = rules
        self._pictures = pictures
        self._clock = clock
        self._by = by
        self._withdrawal = Withdrawal(stores, keep_s)
        self._on_progress = on_progress
        self._lease_s = lease_s
        self._token = secrets.token_hex(8)
        self._lost = False
        self._counts = Counter[Outcome]()
        self._looked_before = 0

    async def run(self, scope: Scope) -> Scan:
        """Scan, or go on with a scan of the same policy and scope. Answers the scan once it has ended.

        Raises `ScanRunning`, `StoreUnavailable`, `BlobStoreUnavailable`. Another call goes on then.
        """
        if not await self._scans.lock(self._token, self._lease_s):
            raise ScanRunning(f"Another process scans, or died less than {self._lease_s:g} s ago.")
        renewal = asyncio.create_task(self._renew(), name="renew")
        try:
            scan = await self._begin(scope)
            for phase in [*Phase][[*Phase].index(scan.phase) :]:
                if scan.phase is not phase:
                    scan = await self._record(scan.model_copy(update={"phase": phase, "cursor": ""}))
                scan = await self._phase(scan)
            return await self._end(scan)
        finally:
            renewal.cancel()
            with suppress(StoreUnavailable):
                await self._scans.unlock(self._token)

    async def _renew(self) -> None:
        while not self._lost:
            await asyncio.sleep(self._lease_s / 5)
            with suppress(StoreUnavailable):  # the next call of the scan itself fails too
                self._lost = not await self._scans.lock(self._token, self._lease_s)

    async def _begin(self, scope: Scope) -> Scan:
        """The scan that was interrupted, or a new one."""
        last, server = await self._scans.get(), await self._scans.server()
        now = self._clock.now()
        if last is not None and last.ended_at is None:
            if (last.looks, last.scope) == (self._rules.looks, scope):
                self._counts = Counter((await self._outcomes()).values())
                self._looked_before = last.looked
                # A cursor of an earlier process of Redis would miss records.
                same = last.server == server or last.phase is Phase.FILES
                again = last.model_copy(update={"server": server, "cursor": last.cursor if same else ""})
                return await self._begun(again)
            if not last.dry_run:
                await self._log(last, "scan_abandoned", now)
        await self._scans.clear()
        scan = Scan(
            id=secrets.token_hex(8),
            policy=self._rules.policy.title,
            looks=self._rules.looks,
            since=scope.since,
            tenant=scope.tenant,
            dry_run=scope.dry_run,
            by=self._by,
            begun_at=now,
            server=server,
        )
        return await self._begun(scan)

    async def _begun(self, scan: Scan) -> Scan:
        """Record the scan, and that it has begun. Its process may have died between the two."""
        recorded = await self._record(scan)
        if not scan.dry_run:
            await self._log(scan, "scan", scan.begun_at)
        return recorded

    async def _phase(self, scan: Scan) -> Scan:
        pages: Mapping[Phase, Callable[[Scan], Awaitable[str]]] = {
            Phase.JOBS: self._jobs,
            Phase.PICTURES: self._records,
            Phase.FILES: self._files,
            Phase.RESULTS: self._results,
            Phase.LATE: self._jobs,
        }
        page = pages[scan.phase]
        for _ in range(TURNS):
            while cursor := await page(scan):
                scan = await self._record(scan.model_copy(update={"cursor": cursor}))
            server = await self._scans.server()
            if scan.phase is Phase.FILES or server == scan.server:
                break
            scan = await self._record(scan.model_copy(update={"server": server, "cursor": ""}))
        return scan

    async def _jobs(self, scan: Scan) -> str:
        """One page of the records of jobs."""
        cursor, found = await self._scans.jobs(scan.cursor)
        since = max(scan.since, scan.begun_at - LATE_S if scan.phase is Phase.LATE else 0.0)
        jobs = [
            job
            for job in found
            if (job.finished_at or job.created_at) >= since
            and (scan.tenant is None or job.tenant == scan.tenant)
        ]
        records: dict[str, list[PictureRecord]] = {}
        for record in await self._stores.pictures.read([job.id for job in jobs]):
            records.setdefault(record.job_id or "", []).append(record)
        places = {job.id: places_of_job(job, records.get(job.id, ()), self._rules.clip) for job in jobs}
        verdicts = await self._judge(scan, [place for each in places.values() for place in each])
        for job in jobs:
            bad = {place.name: verdicts[place] for place in places[job.id] if place in verdicts}
            if not bad:
                continue
            await self._scans.change("jobs", job.id)
            if not scan.dry_run:
                await self._withdrawal.from_job(job, bad)
        return cursor

    async def _records(self, scan: Scan) -> str:
        """One page of the records of images for the search."""
        cursor, found = await self._stores.pictures.scan(scan.cursor)
        records = [
            record
            for record in found
            if record.created_at >= scan.since and (scan.tenant is None or record.scope == scan.tenant)
        ]
        places = [place_of_record(record, self._rules.clip) for record in records]
        verdicts = await self._judge(scan, places)
        for record, place in zip(records, places, strict=True):
            if (verdict := verdicts.get(place)) is None:
                continue
            await self._scans.change("jobs", record.job_id or record.name)
            if not scan.dry_run:
                await self._withdrawal.from_record(record, verdict)
        return cursor

    async def _files(self, scan: Scan) -> str:
        """One page of the files that no record names."""
        if scan.tenant is not None:
            return ""
        page = await self._stores.blobs.page(scan.cursor, FILES)
        names = [name for name, put_at in page if put_at >= scan.since]
        seen = await self._scans.seen(names)
        places = [Place(name, name) for name in names if name not in seen]
        again = [name for name, each in seen.items() if each.outcome in TAKEN_AWAY]
        verdicts = await self._judge(scan, [*places, *(Place(name, name) for name in again)])
        if not scan.dry_run:
            for place, verdict in verdicts.items():
                await self._withdrawal.file(place.name, verdict)
        return page[-1][0] if page else ""

    async def _results(self, scan: Scan) -> str:
        """Drop the cached results whose images are no longer there."""
        if scan.dry_run:
            return ""
        async for page in self._stores.results.entries():
            for address, result in page:
                here = [await self._stores.blobs.exists(image.name) for image in result.images]
                if not all(here):
                    await self._scans.change("results", address)
                    await self._stores.results.delete(address)
            await self._record(scan)
        return ""

    async def _judge(self, scan: Scan, places: Sequence[Place]) -> Mapping[Place, Verdict]:
        """The verdicts on the images that may not be shown. What becomes of each is recorded before."""
        verdicts: dict[Place, Verdict] = {}
        for begin in range(0, len(places), TOGETHER):
            verdicts |= await self._judge_some(places[begin : begin + TOGETHER])
            await self._record(scan)
        return verdicts

    async def _judge_some(self, places: Sequence[Place]) -> dict[Place, Verdict]:
        past = await self._stores.reviews.past(place.decided_as for place in places)
        seen = await self._scans.seen(place.name for place in places)
        looks = await self._look(
            [
                place
                for place in places
                if place.decided_as not in past or not _stands(past[place.decided_as])
            ],
            seen,
        )
        verdicts: dict[Place, Verdict] = {}
        marks: dict[str, Seen] = {}
        for place in places:
            look = looks.get(place.name)
            verdict = await self._verdict(place, past.get(place.decided_as), look)
            outcome = OUTCOMES[verdict.state] if isinstance(verdict, Verdict) else verdict
            if isinstance(verdict, Verdict) and not verdict.shown:
                verdicts[place] = verdict
            before = marks.get(place.name) or seen.get(place.name)
            if before is None or GRAVITY[outcome] > GRAVITY[before.outcome]:
                findings = look.findings if look is not None and outcome in TAKEN_AWAY else ()
                marks[place.name] = Seen(outcome=outcome, findings=findings)
                self._counts[outcome] += 1
                if before is not None:
                    self._counts[before.outcome] -= 1
        await self._scans.mark(marks)
        return verdicts

    async def _look(self, places: Sequence[Place], seen: Mapping[str, Seen]) -> Mapping[str, Look | None]:
        """What the layers find in the images, by name; None: the file is gone."""
        known: dict[str, Look | None] = {
            name: Look(each.findings) for name, each in seen.items() if each.outcome in TAKEN_AWAY
        }
        kept = await self._scans.looks(
            self._rules.looks, (place.name for place in places if place.name not in known)
        )
        known |= {name: Look(findings) for name, findings in kept.items()}
        new = {place.name: place for place in places if place.name not in known}
        looks = await asyncio.gather(
            *(self._pictures.look(place.name, place.embedding) for place in new.values())
        )
        return known | dict(zip(new, looks, strict=True))

    async def _verdict(self, place: Place, past: PastDecision | None, look: Look | None) -> Verdict | Outcome:
        """The verdict on an image, or what became of it without one. What people decided stands. What a
        model released alone stands unless the policy blocks it now."""
        policy = self._rules.policy
        if past is not None and _stands(past):
            return decided(policy, past.state, by_model=past.by_model)
        if look is None:
            return Outcome.GONE
        verdict = judged(policy, self._rules.words, place, look)
        if (
            past is not None
            and past.state is ReviewState.RELEASED
            and (verdict is None or verdict.state != "blocked")
        ):
            return decided(policy, past.state, by_model=past.by_model)
        if verdict is None:
            return Outcome.UNJUDGED
        if not verdict.shown and (reviews := await self._stores.reviews.find(place.name)):
            # A decision that is not carried out yet is in the review alone.
            lead = lead_of(reviews)
            if (
                lead.decision is not None
                and lead.decision.by_reviewer
                and lead.state is not ReviewState.WAITING
            ):
                return decided(policy, lead.state, by_model=by_model(lead.decision))
        if verdict.state == "in_review" and not await self._is_there(place.name):
            return Outcome.GONE  # what was found is known from an earlier scan
        return verdict

    async def _is_there(self, name: str) -> bool:
        return await self._stores.blobs.exists(name) or await self._stores.blobs.exists(HELD + name)

    async def _record(self, scan: Scan) -> Scan:
        """Record how far the scan has come. Raises `ScanRunning`."""
        counted = await self._counted(scan)
        if self._lost or not await self._scans.put(self._token, counted):
            raise ScanRunning("Another process has begun to scan.")
        self._on_progress(counted)
        return counted

    async def _counted(self, scan: Scan) -> Scan:
        return scan.model_copy(
            update={
                "looked": self._looked_before + self._pictures.looked,
                "images": {outcome: count for outcome, count in self._counts.items() if count},
                "jobs": await self._scans.changed("jobs"),
                "results": await self._scans.changed("results"),
            }
        )

    async def _end(self, scan: Scan) -> Scan:
        """Count exactly, and end the scan."""
        outcomes = await self._outcomes()
        self._counts = Counter(outcomes.values())
        now = self._clock.now()
        if not scan.dry_run:
            for name, outcome in outcomes.items():
                # The job that showed it was erased meanwhile, so nobody may decide on it.
                if outcome is Outcome.HELD and not await self._stores.reviews.find(name):
                    await self._stores.blobs.delete(HELD + name, WHENEVER)
        ended = await self._counted(scan.model_copy(update={"ended_at": now, "cursor": ""}))
        if not scan.dry_run:
            await self._log(ended, "scan_ended", now)
        # What stays names no tenant.
        await self._record(ended.model_copy(update={"tenant": None}))
        await self._scans.clear()
        return ended

    async def _outcomes(self) -> dict[str, Outcome]:
        """What the scan has made of each image."""
        outcomes: dict[str, Outcome] = {}
        cursor = 0
        while True:
            cursor, page = await self._scans.all_seen(cursor)
            outcomes |= {name: each.outcome for name, each in page.items()}
            if not cursor:
                return outcomes

    async def _log(self, scan: Scan, action: str, at: float) -> None:
        """Write into the audit trail what the scan does. It names no tenant."""
        await self._stores.moderation_log.append(f"{action}:{scan.id}", at, entry_of(scan, action, self._by))


def _stands(past: PastDecision) -> bool:
    """Whether the decision holds whatever the policy says now."""
    return past.state is ReviewState.REFUSED or (past.state is ReviewState.RELEASED and not past.by_model)

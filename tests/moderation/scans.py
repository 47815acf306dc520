"""Stores with images that were shown before a policy, and scans of them. All images are harmless noise."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from contracts.jobs import ImageRef, Job, JobResult, NewJob, Timings, Webhook
from contracts.pictures import PictureRecord
from contracts.ports.picture_judge import Look, PictureToJudge
from contracts.scans import Scan, Scope
from contracts.settings import BackendSettings
from contracts.transitions import End, Finished
from moderation.carrying import Carrying
from moderation.judge import LayeredJudge, open_judge
from moderation.policy import Policy, read
from moderation.reviewing import Person, Reviewing
from moderation.scanning import OnProgress, Rules, Scanner
from moderation.stored_pictures import StoredPictures, digest_of
from moderation.words import compiled
from runtime.clock import SystemClock
from store.stores import Stores
from tests.store.answers import address
from tests.store.made import keys, led, new, record
from tests.worker.policies import file_of, name_of

KEEP_S: Final = 5000.0
ADA: Final = Person("dk_12345678", "Ada")
OTHER: Final = 105
"""The seed of another image that no list knows."""
HOOK: Final = Webhook(url="https://hooks.example/", events=("job.succeeded", "job.moderated"))


class CountingJudge:
    """The judge of a policy, which counts its looks. `before_look` is called with each image."""

    def __init__(self, judge: LayeredJudge) -> None:
        self.judge = judge
        self.looks: list[PictureToJudge] = []
        self.embeds = judge.embeds

    async def look(self, picture: PictureToJudge) -> Look:
        self.looks.append(picture)
        return await self.judge.look(picture)


@dataclass
class Desk:
    """Stores, a policy, and what people and scans do with them."""

    stores: Stores
    settings: BackendSettings
    path: Path
    """The policy."""
    looks: int = field(default=0)
    """How many images the layers of the last scan have looked at."""

    @property
    def policy(self) -> Policy:
        return read(self.path)

    async def scan(self, on_progress: OnProgress = lambda _: None, **scope: Any) -> Scan:
        """A scan from the beginning to its end."""
        policy, clock = self.policy, SystemClock()
        with closing(open_judge(policy)) as judge:
            counting = CountingJudge(judge)
            looks = digest_of(policy, "")
            pictures = StoredPictures(self.stores.blobs, self.stores.scans, counting, looks, clock)
            scanner = Scanner(
                self.stores,
                Rules(policy, compiled(policy), looks),
                pictures,
                clock,
                by="ada",
                keep_s=KEEP_S,
                on_progress=on_progress,
            )
            try:
                return await scanner.run(Scope(**scope))
            finally:
                self.looks = len(counting.looks)

    async def put(self, *seeds: int) -> list[str]:
        """Store the images of these seeds under their public names."""
        return [await self.stores.blobs.put(file_of(seed), "png") for seed in seeds]

    async def shown(
        self,
        *seeds: int,
        tenant: str = "public",
        prompt: str = "a",
        recorded: bool = False,
        stored: bool = True,
        **job: Any,
    ) -> Job:
        """A job that shows the images of these seeds to its tenant, with a cached result. With `recorded`, the search knows
        them. With `stored` false, their files are as they were."""
        if stored:
            await self.put(*seeds)
        (key,) = keys(1)
        made = new(key, tenant)
        made = made.model_copy(
            update={"request": made.request.model_copy(update={"prompt": prompt}), "webhook": HOOK, **job}
        )
        pictures = tuple(self.record(made, seed) for seed in dict.fromkeys(seeds)) if recorded else ()
        end = End(await self._led(made), result_of(*seeds), address(made), pictures)
        (answer,) = await self.stores.jobs.end_many([end])
        assert answer == Finished(applied=True)
        async with asyncio.timeout(60):
            # On a cluster the cache is filled after the job's end.
            while await self.stores.results.get(address(made)) is None:
                await asyncio.sleep(0.005)
        return await self.job(made)

    async def _led(self, made: NewJob) -> Any:
        if made.tenant == "public":
            return await led(self.stores.jobs, made)
        submitted = await self.stores.jobs.submit(made)
        claim: Any = await self.stores.jobs.claim(submitted.job.message(), "w1")
        return claim.lease

    def record(self, job: NewJob | Job, seed: int, **changes: Any) -> PictureRecord:
        fields = {"name": name_of(seed), "embedding": None, "prompt": "a", **changes}
        return record(job, **fields)  # type: ignore[arg-type]

    async def job(self, job: NewJob | Job) -> Job:
        return await self.stores.jobs.get(job.tenant, job.id)

    async def states(self, job: NewJob | Job) -> list[str | None]:
        """The states of a job's images."""
        result = (await self.job(job)).result
        assert result is not None
        return [None if image.moderation is None else image.moderation.state for image in result.images]

    async def public(self, *seeds: int) -> list[bool]:
        """Which of the images anybody may read."""
        return [await self.stores.blobs.exists(name_of(seed)) for seed in seeds]

    @property
    def reviewing(self) -> Reviewing:
        clock = SystemClock()
        carrying = Carrying(self.stores, self.stores.moderation_log, clock, 3600.0)
        return Reviewing(self.stores.reviews, carrying, self.stores.moderation_log, clock)


def result_of(*seeds: int) -> JobResult:
    """The result of a job that no policy has looked at."""
    images = tuple(
        ImageRef(
            name=name_of(seed),
            width=64,
            height=64,
            seed=seed,
            content_type="image/png",
            size_bytes=len(file_of(seed)),
        )
        for seed in seeds
    )
    return JobResult(images=images, timings=Timings(queued_ms=1, batch_ms=2, encode_ms=3, batch_size=4))


def images(scan: Scan) -> dict[str, int]:
    """How many images had each outcome."""
    return {outcome.value: count for outcome, count in scan.images.items()}

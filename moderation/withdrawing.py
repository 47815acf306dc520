"""Takes images away that were shown, as a scan decides: the file, and then all that names it.

Every step may be done twice. The file goes first, so that a process which dies leaves no image that is still shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from backends.blobs import HELD
from contracts.errors import ImageNotFound, JobGone, JobNotFound, RecordUnreadable
from contracts.jobs import ImageRef, Job, JobResult
from contracts.moderation import Verdict
from contracts.pictures import IMPORT, PictureRecord
from contracts.ports.scan_store import TakenAway
from contracts.reviews import HeldCase, HeldImage
from moderation.held import case_of, severity_of
from moderation.places import shown_images
from moderation.stored_pictures import size_of
from store.stores import Stores

WHENEVER: Final = float("inf")
"""A file is deleted whenever it was stored."""
TRIES: Final = 10
"""How often a record that others change is read again."""
TYPES: Final = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}


class Withdrawal:
    """Takes images away. Every coroutine raises `StoreUnavailable` and `BlobStoreUnavailable`."""

    def __init__(self, stores: Stores, keep_s: float) -> None:
        """`keep_s`: for how many seconds a held image is kept."""
        self._stores = stores
        self._keep_s = keep_s

    async def from_job(self, job: Job, verdicts: Mapping[str, Verdict]) -> bool:
        """Take the images with these names from a job. False: its record is gone."""
        for name, verdict in verdicts.items():
            await self._hide(name, verdict)
        for _ in range(TRIES):
            names = {image.name for image in shown_images(job)} & verdicts.keys()
            if job.result is None or not names:
                return True
            records = [each for each in await self._stores.pictures.read([job.id]) if each.name in names]
            taken = TakenAway(
                id=job.id,
                before=job.result,
                after=without(job.result, verdicts),
                held=self._held(job, job.result, verdicts, records),
                pictures=tuple(records),
            )
            if await self._stores.scans.take_away(taken):
                return True
            try:
                job = await self._stores.jobs.get(job.tenant, job.id)
            except (JobNotFound, JobGone, RecordUnreadable):
                return False
        return False

    async def from_record(self, record: PictureRecord, verdict: Verdict) -> bool:
        """Take an image from the search, and from the job that shows it. False: its record is gone."""
        job = await self._job(record.job_id or "")
        if job is not None and any(image.name == record.name for image in shown_images(job)):
            return await self.from_job(job, {record.name: verdict})
        await self._hide(record.name, verdict)
        held: tuple[HeldImage, ...] = ()
        if verdict.state == "in_review":
            case = await self._case(record.name, verdict, record)
            held = (self._held_image(record.name, (0,), case),)
        taken = TakenAway(id=record.job_id or "", held=held, pictures=(record,))
        return await self._stores.scans.take_away(taken)

    async def _job(self, job_id: str) -> Job | None:
        """The job with this id; None: it is an import, or its record is gone or cannot be read."""
        owner = None if job_id.startswith(IMPORT) else await self._stores.jobs.owner(job_id)
        if owner is None:
            return None
        try:
            return await self._stores.jobs.get(owner, job_id)
        except (JobNotFound, JobGone, RecordUnreadable):
            return None

    async def file(self, name: str, verdict: Verdict) -> None:
        """Take away an image that nothing names."""
        await self._hide(name, verdict)
        if verdict.state == "in_review":
            case = await self._case(name, verdict, None)
            held = (self._held_image(name, (), case),)
            await self._stores.scans.take_away(TakenAway(held=held, digit=name[0]))

    async def _hide(self, name: str, verdict: Verdict) -> None:
        """Take the file from its public name. A held one gets a private name before."""
        blobs = self._stores.blobs
        if verdict.state == "in_review":
            # If it is gone, an earlier call has taken it away, or its owner has deleted it.
            with suppress(ImageNotFound):
                await blobs.put(await blobs.get(name), name.rpartition(".")[2], is_held=True)
        await blobs.delete(name, WHENEVER)

    def _held(
        self,
        job: Job,
        result: JobResult,
        verdicts: Mapping[str, Verdict],
        records: Sequence[PictureRecord],
    ) -> tuple[HeldImage, ...]:
        by_name = {record.name: record for record in records}
        places: dict[str, list[int]] = {}
        for index, image in enumerate(result.images):
            verdict = verdicts.get(image.name)
            if image.shown and verdict is not None and verdict.state == "in_review":
                places.setdefault(image.name, []).append(index)
        return tuple(
            self._held_image(
                name,
                tuple(indexes),
                case_of(
                    job.request,
                    result.images[indexes[0]],
                    verdicts[name],
                    by_name.get(name),
                    result.images[indexes[0]].decided_as,
                ),
            )
            for name, indexes in places.items()
        )

    def _held_image(self, name: str, indexes: tuple[int, ...], case: HeldCase) -> HeldImage:
        return HeldImage(
            name=name, indexes=indexes, severity=severity_of(case.verdict), keep_s=self._keep_s, case=case
        )

    async def _case(self, name: str, verdict: Verdict, record: PictureRecord | None) -> HeldCase:
        """What a reviewer is shown of an image that no job names."""
        try:
            file = await self._stores.blobs.get(HELD + name)
        except ImageNotFound:
            file = b""
        width, height = size_of(file)
        return HeldCase(
            verdict=verdict,
            prompt="" if record is None else record.prompt,
            model="" if record is None else record.model,
            lora="" if record is None else record.lora,
            width=width,
            height=height,
            seed=0 if record is None else record.seed or 0,
            content_type=TYPES[name.rpartition(".")[2]],
            size_bytes=len(file),
            picture=record,
            drawn=name,
        )


def without(result: JobResult, verdicts: Mapping[str, Verdict]) -> JobResult:
    """The result after the images with these names were taken away. Pure."""
    return result.model_copy(
        update={"images": tuple(_taken(image, verdicts.get(image.name)) for image in result.images)}
    )


def _taken(image: ImageRef, verdict: Verdict | None) -> ImageRef:
    if verdict is None or not image.shown:
        return image
    name = HELD + image.name if verdict.state == "in_review" else ""
    return image.model_copy(update={"name": name, "moderation": verdict, "drawn": ""})

"""The port of the store of scans: one at a time, from which another process can go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from contracts.jobs import Job, JobResult
from contracts.moderation import Finding
from contracts.pictures import PictureRecord
from contracts.reviews import HeldImage
from contracts.scans import Scan, Seen

Changed = Literal["jobs", "results"]
"""What a scan counts besides images."""


@dataclass(frozen=True, slots=True)
class TakenAway:
    """Images that are taken away from what shows them.

    `id` is that of a job, or of an imported image; empty: nothing names the image. `before` and `after` are the result of the
    job; None: the record of the image stands for the job's. `held` are those that wait for a person, and `pictures` the
    records that the search must forget. Without an id, `digit` says where the review lies.
    """

    id: str = ""
    before: JobResult | None = None
    after: JobResult | None = None
    held: tuple[HeldImage, ...] = ()
    pictures: tuple[PictureRecord, ...] = ()
    digit: str = "0"


class ScanStore(Protocol):
    """The scan that runs or ran last. Every coroutine raises `StoreUnavailable`."""

    async def lock(self, token: str, lease_s: float) -> bool:
        """Take the right to scan, or keep it, for `lease_s` seconds. False: another process has it."""
        ...

    async def unlock(self, token: str) -> None:
        """Give the right back, if this process still has it."""
        ...

    async def get(self) -> Scan | None:
        """The scan that runs or ran last; None: there was none, or its document is damaged."""
        ...

    async def put(self, token: str, scan: Scan) -> bool:
        """Record how far the scan has come. False: another process has the right to scan."""
        ...

    async def clear(self) -> None:
        """Forget what was seen and counted. The document stays."""
        ...

    async def seen(self, names: Iterable[str]) -> Mapping[str, Seen]:
        """What the scan has made of these images. Others are left out."""
        ...

    async def mark(self, seen: Mapping[str, Seen]) -> None:
        """Record what it has made of images."""
        ...

    async def all_seen(self, cursor: int) -> tuple[int, Mapping[str, Seen]]:
        """A page of all images, and the next cursor; 0 begins and ends. An image may come twice."""
        ...

    async def looks(self, looks: str, names: Iterable[str]) -> Mapping[str, tuple[Finding, ...]]:
        """What layers have found in images before, by the policy with the digest `looks`."""
        ...

    async def remember(self, looks: str, name: str, findings: Sequence[Finding]) -> None:
        """Keep what all layers have found in an image. The store may drop it at any time."""
        ...

    async def jobs(self, cursor: str) -> tuple[str, Sequence[Job]]:
        """A page of all records of jobs that succeeded, as `PictureOutbox.scan`."""
        ...

    async def server(self) -> str:
        """The process of the store. Cursors of another one are worth nothing."""
        ...

    async def change(self, kind: Changed, name: str) -> None:
        """Count a thing that is changed, once."""
        ...

    async def changed(self, kind: Changed) -> int:
        """How many things of a kind were changed."""
        ...

    async def take_away(self, what: TakenAway) -> bool:
        """Take images from the record that shows them, record their reviews, and tell owners and the search index, in
        one step. False: the record has changed since it was read, or is gone."""
        ...

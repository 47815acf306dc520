"""Lists of known images, opened: a picture is looked up by everything that they have."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from contracts.moderation import Finding
from contracts.ports.picture_judge import PictureToJudge
from moderation.hashes import list_file
from moderation.hashes.exact import digests_in
from moderation.hashes.formats import PDQ_MIN_QUALITY
from moderation.hashes.multi_index import BITS, Hashes, NearHashes, to_words
from moderation.hashes.pdq import hashes_of
from moderation.hashes.views import KnownViews
from moderation.policy import HashList
from telemetry import metrics
from telemetry.logs import get_logger

log = get_logger(__name__)


class PictureHashes:
    """What a picture is looked up by. Each is made when it is first asked for, once for all lists."""

    def __init__(self, picture: PictureToJudge) -> None:
        self.picture = picture

    @cached_property
    def sha256(self) -> bytes:
        """Of the file's bytes."""
        return hashlib.sha256(self.picture.file).digest()

    @cached_property
    def md5(self) -> bytes:
        """Of the file's bytes."""
        return hashlib.md5(self.picture.file, usedforsecurity=False).digest()

    @cached_property
    def pdq(self) -> tuple[Hashes, int]:
        """The PDQ hashes (8, 4) of the picture, mirrored and turned too, and its quality."""
        shape = (self.picture.height, self.picture.width, 3)
        hashes, quality = hashes_of(np.frombuffer(self.picture.rgb, np.uint8).reshape(shape))
        if quality < PDQ_MIN_QUALITY:
            metrics.PICTURES_WITHOUT_PDQ.inc()
        return to_words(hashes), quality


class KnownImages:
    """One list of a policy."""

    def __init__(self, entry: HashList, clip: str) -> None:
        """Read and check the list. `clip` names the model of the embeddings that pictures have; empty: none.

        Raises `list_file.InvalidList`.
        """
        header, arrays = list_file.read(entry.file)
        if header.category != entry.category:
            raise list_file.InvalidList(
                f"{entry.file} is a list of {header.category}, and the policy names it for {entry.category}"
            )
        if header.clip and clip and header.clip != clip:
            raise list_file.InvalidList(
                f"{entry.file} has embeddings of {header.clip}, and the workers have {clip}: import it again"
            )
        if header.clip and not clip:
            log.warning("moderation_list_without_clip", list=entry.file.name, clip=header.clip)
        self._entry = entry
        self._title = f"{entry.file.name}@{header.revision}"
        try:
            self._sha256, self._md5 = digests_in("sha256", arrays), digests_in("md5", arrays)
            self._pdq = NearHashes(arrays)
            self._views = (
                KnownViews(arrays["views.vectors"], arrays["views.hashes"]) if header.clip and clip else None
            )
        except (KeyError, ValueError) as error:
            raise list_file.InvalidList(f"{entry.file} is damaged: {error}") from error

    @property
    def embeds(self) -> bool:
        """Whether it compares embeddings."""
        return self._views is not None

    def look(self, hashes: PictureHashes) -> Iterator[Finding]:
        """What the list says of the picture."""
        if len(self._sha256) and hashes.sha256 in self._sha256:
            yield self._finding("sha256", 1.0)
        if len(self._md5) and hashes.md5 in self._md5:
            yield self._finding("md5", 1.0)
        if len(self._pdq) and hashes.pdq[1] >= PDQ_MIN_QUALITY:
            near = self._pdq.near(hashes.pdq[0], self._entry.distance)
            if near:
                apart = min(each.distance for each in near)
                yield self._finding(f"pdq, {apart} bits apart", 1 - apart / BITS)
        if self._views is not None and hashes.picture.embedding is not None:
            cosine = self._views.nearest(hashes.picture.embedding, hashes.pdq[0], self._entry.similarity)
            if cosine is not None:
                yield self._finding("embedding", min(1.0, cosine))

    def _finding(self, how: str, score: float) -> Finding:
        return Finding(
            layer="hashes",
            category=self._entry.category,
            score=round(score, 4),
            source=f"{self._title} by {how}",
        )


class KnownLists:
    """All lists of a policy. A look may run on any thread."""

    def __init__(self, entries: Sequence[HashList], clip: str) -> None:
        """For the arguments and errors, see `KnownImages`."""
        self._lists = [KnownImages(each, clip) for each in entries]

    @property
    def embed(self) -> bool:
        """Whether one of them compares embeddings."""
        return any(each.embeds for each in self._lists)

    def look(self, picture: PictureToJudge) -> list[Finding]:
        """What all lists say of the picture."""
        hashes = PictureHashes(picture)
        return [finding for each in self._lists for finding in each.look(hashes)]

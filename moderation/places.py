"""Where an image is shown, and what a policy says of it there. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from backends.blobs import is_public_name
from contracts.jobs import ImageRef, Job
from contracts.moderation import SHOWN, Finding, Verdict
from contracts.pictures import PictureRecord
from contracts.ports.picture_judge import Look
from contracts.reviews import ReviewState
from contracts.scans import Outcome
from moderation.decide import decide
from moderation.policy import Policy, WordField

OUTCOMES: Final = {
    "passed": Outcome.PASSED,
    "tagged": Outcome.TAGGED,
    "in_review": Outcome.HELD,
    "blocked": Outcome.BLOCKED,
    "released": Outcome.DECIDED,
    "refused": Outcome.BLOCKED,
}
"""The outcome of a scan, by the state of the image."""


class WordFinder(Protocol):
    """The words of a policy (`moderation.words.WordMatcher`)."""

    def find(self, tenant: str, text: str) -> tuple[Finding, ...]:
        """What the lists of the tenant find in the text."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """An image, the tenant to whom it is shown, and what was said when it was asked for.

    `decided_as` is the name by which people's decisions on it are kept. `kept` are findings that cannot be made
    again. `embedding`: the one that its record has.
    """

    name: str
    decided_as: str
    tenant: str = ""
    texts: tuple[tuple[WordField, str], ...] = ()
    kept: tuple[Finding, ...] = ()
    embedding: bytes | None = None


def places_of_job(job: Job, records: Iterable[PictureRecord], clip: str) -> list[Place]:
    """The images that a job shows, each once. `records` are those of its images for the search."""
    request = job.request
    texts: tuple[tuple[WordField, str], ...] = (
        ("prompt", request.prompt),
        ("negative_prompt", request.negative_prompt),
        ("lora", "" if request.lora is None else request.lora.name),
    )
    by_name = {record.name: record for record in records}
    return [
        Place(
            name=image.name,
            decided_as=image.decided_as,
            tenant=job.tenant,
            texts=texts,
            kept=_meanings([request.moderation, image.moderation]),
            embedding=_embedding(by_name.get(image.name), clip),
        )
        for image in {image.name: image for image in shown_images(job)}.values()
    ]


def place_of_record(record: PictureRecord, clip: str) -> Place:
    """An image that the search shows."""
    return Place(
        name=record.name,
        decided_as=record.name,
        tenant=record.scope,
        texts=(("prompt", record.prompt), ("lora", record.lora)),
        embedding=_embedding(record, clip),
    )


def shown_images(job: Job) -> Iterator[ImageRef]:
    """The images that a job's owner may see now."""
    if job.result is not None:
        yield from (image for image in job.result.images if image.shown and is_public_name(image.name))


def judged(policy: Policy, words: WordFinder | None, place: Place, look: Look) -> Verdict | None:
    """What the policy says of the image; None: a layer without which nothing passes could not look.

    The image was shown before. So it is not held merely because a layer is away.
    """
    found = list(place.kept)
    if words is not None:
        found += [
            finding
            for field, text in place.texts
            if text and field in policy.words.fields
            for finding in words.find(place.tenant, text)
        ]
    found = list(dict.fromkeys((*found, *look.findings)))
    verdict = decide(policy, place.tenant, found)
    if verdict.state not in SHOWN:
        return verdict
    closed = any(getattr(policy.when_away, layer) == "closed" for layer in look.away)
    return None if closed else decide(policy, place.tenant, found, look.away)


def decided(policy: Policy, state: ReviewState, *, by_model: bool) -> Verdict:
    """The verdict on an image that was decided on before, by people or by a second look alone."""
    return Verdict(
        state="released" if state is ReviewState.RELEASED else "refused",
        policy=policy.title,
        layer="second_look" if by_model else "people",
    )


def _meanings(verdicts: Sequence[Verdict | None]) -> tuple[Finding, ...]:
    """What was found in the meaning of the prompt."""
    found = (each for verdict in verdicts if verdict is not None for each in verdict.findings)
    return tuple(dict.fromkeys(each for each in found if each.layer == "meaning"))


def _embedding(record: PictureRecord | None, clip: str) -> bytes | None:
    if record is None or record.embedding is None or record.embedding.model != clip:
        return None
    return record.embedding.raw()

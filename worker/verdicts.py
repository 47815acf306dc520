"""What moderation says of the images of a job, before anybody sees them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backends.blobs import blob_name
from contracts.engine import Pixels
from contracts.jobs import ImageRef, JobMessage
from contracts.moderation import Verdict
from contracts.pictures import PictureRecord
from contracts.ports.picture_judge import PictureJudge, PictureToJudge
from contracts.ports.review_store import ReviewStore
from contracts.reviews import HeldCase, HeldImage
from moderation.decide import decide
from moderation.held import decided_by_people, gravest, severity_of
from moderation.policy import Policy
from telemetry import metrics
from worker.encode import Encoded


@dataclass(frozen=True, slots=True)
class Rules:
    """The policy in force, and the judge made of it."""

    policy: Policy
    judge: PictureJudge


class Verdicts:
    """Judges the images of jobs. `rules` answers the policy in force and its judge."""

    def __init__(self, rules: Callable[[], Rules], reviews: ReviewStore, clip: str = "") -> None:
        """`clip` names the model of the images' embeddings."""
        self._rules = rules
        self._reviews = reviews
        self._clip = clip

    async def of(
        self, message: JobMessage, images: Sequence[Pixels], files: Sequence[Encoded]
    ) -> list[Verdict]:
        """The verdict on each image, together with that on the prompt.

        An image that people have decided on before is not held again. Raises `StoreUnavailable`.
        """
        rules = self._rules()
        with metrics.JUDGE_SECONDS.time():
            verdicts = await asyncio.gather(
                *(self._one(rules, message, image, file) for image, file in zip(images, files, strict=True))
            )
        names = [blob_name(file.data, file.format) for file in files]
        held = [name for name, verdict in zip(names, verdicts, strict=True) if verdict.state == "in_review"]
        past = await self._reviews.past(held)
        final = [
            decided_by_people(verdict, past[name].state if name in past else None)
            for name, verdict in zip(names, verdicts, strict=True)
        ]
        for verdict in final:
            metrics.PICTURE_VERDICTS.labels(verdict.state).inc()
        return final

    async def _one(self, rules: Rules, message: JobMessage, image: Pixels, file: Encoded) -> Verdict:
        look = await rules.judge.look(
            PictureToJudge(
                rgb=image.rgb,
                width=image.width,
                height=image.height,
                file=file.data,
                tenant=message.tenant,
                embedding=image.embedding,
                clip="" if image.embedding is None else self._clip,
            )
        )
        verdict = decide(rules.policy, message.tenant, look.findings, look.away)
        return gravest(verdict, message.request.moderation)


def held_images(
    message: JobMessage,
    refs: Sequence[ImageRef],
    names: Sequence[str],
    pictures: Sequence[PictureRecord],
    keep_s: float,
) -> tuple[HeldImage, ...]:
    """The reviews of the images of `refs` that wait for a person. Pure.

    `names` are the images' file names, as they are once released. `pictures` are records for the search
    index, one for each image with an embedding. Files are kept for `keep_s` seconds.
    """
    places = defaultdict[str, list[int]](list)
    for index, (ref, name) in enumerate(zip(refs, names, strict=True)):
        if ref.moderation is not None and ref.moderation.state == "in_review":
            places[name].append(index)
    by_name = {picture.name: picture for picture in pictures}
    return tuple(
        HeldImage(
            name=name,
            indexes=tuple(indexes),
            severity=severity_of(verdict),
            keep_s=keep_s,
            case=_case(message, refs[indexes[0]], verdict, by_name.get(name)),
        )
        for name, indexes in places.items()
        if (verdict := refs[indexes[0]].moderation) is not None
    )


def _case(message: JobMessage, ref: ImageRef, verdict: Verdict, picture: PictureRecord | None) -> HeldCase:
    request = message.request
    return HeldCase(
        verdict=verdict,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        model=request.model,
        lora="" if request.lora is None else request.lora.name,
        width=ref.width,
        height=ref.height,
        seed=ref.seed,
        content_type=ref.content_type,
        size_bytes=ref.size_bytes,
        picture=picture,
    )

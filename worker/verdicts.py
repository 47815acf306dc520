"""What moderation says of the images of a job, before anybody sees them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence

from backends.blobs import blob_name
from contracts.engine import Pixels
from contracts.errors import SettingsError
from contracts.jobs import ImageRef, JobMessage
from contracts.moderation import Verdict
from contracts.pictures import PictureRecord
from contracts.ports.picture_judge import PictureJudge, PictureToJudge
from contracts.ports.review_store import ReviewStore
from contracts.requests import GenerationRequest
from contracts.reviews import HeldImage, ReviewState
from contracts.settings import WorkerSettings
from moderation.decide import decide
from moderation.held import case_of, decided_before, gravest, severity_of, was_released
from moderation.live import InForce, LivePolicy
from moderation.policy import InvalidPolicy, read
from moderation.second_look import asked
from telemetry import metrics
from telemetry.logs import get_logger
from worker.encode import Encoded

log = get_logger(__name__)


def opened(settings: WorkerSettings, clip: str) -> LivePolicy[PictureJudge] | None:
    """The policy of the settings, with its judge of images; None: there is none.

    `clip` names the model of the images' embeddings; empty: they have none. Raises `SettingsError` if the
    policy cannot be used.
    """
    if settings.moderation is None:
        return None
    from moderation.judge import open_judge  # only here: without a policy nothing of it is loaded

    try:
        return LivePolicy[PictureJudge].opened(settings.moderation, lambda policy: open_judge(policy, clip))
    except InvalidPolicy as error:
        raise SettingsError(f"DARKROOM_MODERATION: {error}") from None


def check_policy(settings: WorkerSettings) -> None:
    """Raise `SettingsError` if the policy of the settings cannot be read, before a model is loaded."""
    try:
        if settings.moderation is not None:
            read(settings.moderation)
    except InvalidPolicy as error:
        raise SettingsError(f"DARKROOM_MODERATION: {error}") from None


class Verdicts:
    """Judges the images of jobs by the policy in force."""

    def __init__(
        self,
        live: LivePolicy[PictureJudge],
        reviews: ReviewStore,
        clip: str = "",
    ) -> None:
        """`clip` names the model of the images' embeddings."""
        self._live = live
        self._reviews = reviews
        self._clip = clip

    @property
    def policy(self) -> str:
        """The policy in force, as `name@version`."""
        return self._live.now.policy.title

    def can_judge(self, asked: str) -> bool:
        """Whether the policy in force judges images for one named `asked` (`name@version`).

        The API may have another version of it for a moment.
        """
        policy = self._live.now.policy
        return policy.judges_pictures and policy.name == asked.partition("@")[0]

    def shares(self, tenant: str) -> bool:
        """Whether others may see what was drawn for the tenant: one with rules of its own shares with nobody."""
        return tenant not in self._live.now.policy.tenants

    async def of(
        self, message: JobMessage, images: Sequence[Pixels], files: Sequence[Encoded]
    ) -> list[Verdict]:
        """The verdict on each image, together with that on the prompt.

        An image that people have decided on before is not held again. Raises `StoreUnavailable`.
        """
        rules = self._live.now
        with metrics.JUDGE_SECONDS.time():
            verdicts = await asyncio.gather(
                *(self._one(rules, message, image, file) for image, file in zip(images, files, strict=True))
            )
        names = [blob_name(file.data, file.format) for file in files]
        held = [name for name, verdict in zip(names, verdicts, strict=True) if verdict.state == "in_review"]
        past = await self._reviews.past(held)
        final = [
            decided_before(verdict, past.get(name)) for name, verdict in zip(names, verdicts, strict=True)
        ]
        for verdict in final:
            metrics.PICTURE_VERDICTS.labels(verdict.state).inc()
        return final

    async def taken_back(self, verdicts: Sequence[Verdict | None], drawn: Sequence[str]) -> frozenset[str]:
        """Which of the images that people had released are not released any more.

        `drawn` are the images' names before they were signed. Call it once the files are stored. Who takes
        a release back forgets it first, and deletes the file afterwards. Raises `StoreUnavailable`.
        """
        released = [
            name
            for verdict, name in zip(verdicts, drawn, strict=True)
            if verdict is not None and was_released(verdict)
        ]
        past = await self._reviews.past(released)
        return frozenset(
            name for name in released if name not in past or past[name].state is not ReviewState.RELEASED
        )

    def second_look(self, tenant: str, verdict: Verdict) -> bool:
        """Whether a heavier model looks at the held image of a tenant before people do."""
        return bool(asked(self._live.now.policy, tenant, verdict))

    async def _one(
        self, rules: InForce[PictureJudge], message: JobMessage, image: Pixels, file: Encoded
    ) -> Verdict:
        look = await rules.compiled.look(
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


def never_looked_at(_: str, __: Verdict) -> bool:
    """No model looks at held images where no policy says so."""
    return False


def unjudged(request: GenerationRequest, own: str) -> Verdict:
    """The verdict on an image that this worker cannot judge by the policy of its request: a person must look.

    `own` is the worker's policy; empty: it has none. It is logged and counted.
    """
    log.error("policy_mismatch", asked=request.policy, own=own or "none")
    metrics.LAYER_AWAY.labels("pictures", "policy").inc()
    away = Verdict(state="in_review", policy=request.policy, layer="pictures", away=("pictures",))
    return gravest(away, request.moderation)


def held_images(
    message: JobMessage,
    refs: Sequence[ImageRef],
    names: Sequence[str],
    drawn: Sequence[str],
    pictures: Sequence[PictureRecord],
    keep_s: float,
    second_look: Callable[[str, Verdict], bool],
) -> tuple[HeldImage, ...]:
    """The reviews of the images of `refs` that wait for a person, or that people have released before: an undo
    must reach this job too. Pure.

    `names` are the images' file names, as they are once released, and `drawn` those before they were
    signed: people's decisions are kept by these. `pictures` are records for the search
    index, one for each image with an embedding. Files are kept for `keep_s` seconds.
    `second_look` says whether a model looks first (`Verdicts.second_look`).
    """
    places = defaultdict[str, list[int]](list)
    for index, (ref, name) in enumerate(zip(refs, names, strict=True)):
        if ref.moderation is not None and (
            ref.moderation.state == "in_review" or was_released(ref.moderation)
        ):
            places[name].append(index)
    by_name = {picture.name: picture for picture in pictures}
    return tuple(
        HeldImage(
            name=name,
            indexes=tuple(indexes),
            severity=severity_of(verdict),
            keep_s=keep_s,
            case=case_of(message.request, refs[indexes[0]], verdict, by_name.get(name), drawn[indexes[0]]),
            second_look=second_look(message.tenant, verdict),
            released=was_released(verdict),
        )
        for name, indexes in places.items()
        if (verdict := refs[indexes[0]].moderation) is not None
    )

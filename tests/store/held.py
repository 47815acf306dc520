"""Results with held images, and the reviews that are recorded with them."""

from __future__ import annotations

from typing import Any

from contracts.jobs import ImageRef, JobResult, Timings
from contracts.moderation import Finding, State, Verdict
from contracts.reviews import HeldCase, HeldImage
from tests.store.made import name

KEEP_S = 5000.0


def verdict(state: State = "in_review", score: float = 0.6) -> Verdict:
    finding = Finding(layer="pictures", category="weapons", score=score, source="head@1")
    return Verdict(
        state=state,
        categories=("weapons",),
        policy="house@3",
        layer="pictures",
        score=score,
        source="head@1",
        findings=(finding,),
    )


def image(number: int, state: State | None = "in_review") -> ImageRef:
    """An image as a worker records it, in that state; None: no policy has looked at it."""
    folder = {"in_review": "held/"}.get(state or "", "")
    return ImageRef(
        name="" if state in ("blocked", "refused") else folder + name(number),
        width=64,
        height=64,
        seed=number,
        content_type="image/png",
        size_bytes=9,
        moderation=None if state is None else verdict(state),
    )


def result_of(*images: ImageRef) -> JobResult:
    return JobResult(images=images, timings=Timings(queued_ms=1, batch_ms=2, encode_ms=3, batch_size=4))


def held_image(number: int, *indexes: int, severity: int = 2, **changes: Any) -> HeldImage:
    fields: dict[str, Any] = {
        "verdict": verdict(),
        "prompt": "a sword",
        "model": "m",
        "width": 64,
        "height": 64,
        "seed": number,
        "content_type": "image/png",
        "size_bytes": 9,
    }
    return HeldImage(
        name=name(number),
        indexes=indexes or (0,),
        severity=severity,
        keep_s=KEEP_S,
        case=HeldCase(**{**fields, **changes}),
    )

"""What a receiver gets: the event, its time, and the job exactly as `GET /v1/jobs/{id}` shows it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from contracts.jobs import Job
from contracts.webhooks import event_of
from views.job import job_view


def payload(job: Job, public_url: str | None, event: str | None = None, at_s: float | None = None) -> bytes:
    """The body for `job`, which has ended: the same bytes at every attempt, unless people decide on its
    images in between.

    `event` None: its end. `at_s` is when the event happened, in Unix seconds; None: when the job ended.
    With a `public_url`, links are absolute.
    """
    view: dict[str, Any] = job_view(job, None, None).model_dump(mode="json")
    if public_url:
        base = public_url.rstrip("/")
        for image in view["images"]:
            image["url"] = _absolute(base, image["url"])
        view["urls"] = {name: _absolute(base, url) for name, url in view["urls"].items()}
    at = datetime.fromtimestamp(at_s or job.finished_at or job.created_at, UTC)
    document = {
        "type": event or event_of(job.status),
        "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "data": view,
    }
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def _absolute(base: str, url: str | None) -> str | None:
    return base + url if url is not None and url.startswith("/") else url

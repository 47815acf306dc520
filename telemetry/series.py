"""Counters that exist at zero from the start of their process.

A counter with labels first appears with its first event, and `increase()` of a series that appears at 1
is 0. The first burst of events would then never raise its alert
(https://prometheus.io/docs/practices/instrumentation/#avoid-missing-metrics). So the label values that
alerts use are listed here, per process. `tests/telemetry` checks the lists against the code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import Counter

from contracts.errors import DarkroomError, RequestError, UnavailableError
from contracts.jobs import JobStatus
from telemetry import metrics

BATCH_OUTCOMES: Final = ("done", "fault", "crash", "out_of_memory", "broken", "unrun")
RESTART_CAUSES: Final = ("crash",)
DEAD_LETTER_OUTCOMES: Final = ("failed", "refused")
PUBLISH_OUTCOMES: Final = ("confirmed", "error", "broker_unavailable", "queue_full")
RELAY_REASONS: Final = ("stale", "promoted", "withdrawn", "canceled")
EMBEDDING_OUTCOMES: Final = ("made", "failed", "no_room")
BLOB_STORE_CAUSES: Final = ("full", "unavailable")
WEBHOOK_OUTCOMES: Final = ("delivered", "retry", "failed", "disabled", "repeated", "deferred")
LIMITS: Final = ("requests_per_minute", "concurrent_jobs", "queued_jobs", "images_per_day", "kept_bytes")
PICTURE_LAYERS: Final = ("hashes", "pictures")
AWAY_CAUSES: Final = ("busy", "timeout", "failed")
PICTURE_STATES: Final = ("passed", "tagged", "in_review", "blocked", "released", "refused")
REVIEW_ACTIONS: Final = ("release", "refuse", "undo", "appeal", "lapse")
SECOND_LOOK_OUTCOMES: Final = (
    "release",
    "refuse",
    "review",
    "away",
    "garbled",
    "over_budget",
    "too_late",
    "retry",
    "decided",
    "unasked",
    "gone",
    "repeated",
)
SIGN_IN_OUTCOMES: Final = ("done", "refused", "unavailable")
SEARCH_FAILURES: Final = ("away", "timeout", "unavailable")
IMPORT_OUTCOMES: Final = ("added", "known", "refused", "removed")
SEARCH_OUTCOMES: Final = ("added", "deleted", "expired", "lost", "refused", "unreadable")
RERANK_OUTCOMES: Final = ("done", "failed", "late")
SIMILAR_OUTCOMES: Final = ("away", "hit", "miss")
CLICK_OUTCOMES: Final = ("counted", "ignored")
PROMPT_STATES: Final = ("passed", "tagged", "in_review", "blocked", "unavailable")
MEANING_AWAY: Final = ("away", "timeout", "failed")
READ_LIMITS: Final = ("event_streams", "waits", "reads_per_minute")
REPAIRED_STEPS: Final[Mapping[str, tuple[str, ...]]] = {
    "api": (
        "cache_lookup",
        "catalogue",
        "clock_step",
        "confirm",
        "dead_letter",
        "idempotency",
        "numbers",
        "prune",
        "refund",
        "relay",
        "reviews",
        "room",
        "sweep",
        "usage",
        "withdraw",
    ),
    "worker": (
        "announce",
        "blob_store",
        "cache_fill",
        "preview",
        "progress",
        "recall_cost",
        "refund",
        "relay",
        "renew",
        "store",
        "store_full",
        "take",
        "withdraw_worker",
    ),
    "search": ("search", "search_clicks", "search_dispatch", "search_rebuild", "search_tidy", "store_full"),
    "second_look": ("second_look", "second_look_dispatch"),
    "webhooks": ("webhook", "webhook_dispatch"),
}


def begin_api(routes: Iterable[tuple[str, str]]) -> None:
    """Create the series of an API process; `routes` are pairs of method and path."""
    errors = sorted({error.status for error in _tree(DarkroomError) if error.status >= 500})
    for method, route in routes:
        for status in errors:
            metrics.HTTP_REQUESTS.labels(method, route, str(status))
    refusals = {error.code for base in (RequestError, UnavailableError) for error in _tree(base)}
    _begin(metrics.JOBS_REFUSED, sorted(refusals))
    _begin(metrics.QUOTA_REFUSED, LIMITS)
    _begin(metrics.READS_REFUSED, READ_LIMITS)
    _begin(metrics.DEAD_LETTERS, DEAD_LETTER_OUTCOMES)
    _begin(metrics.SEARCH_FAILED, SEARCH_FAILURES)
    _begin(metrics.SEARCH_IMPORTS, IMPORT_OUTCOMES)
    _begin(metrics.PROMPTS_JUDGED, PROMPT_STATES)
    for cause in MEANING_AWAY:
        metrics.LAYER_AWAY.labels("meaning", cause)
    _begin(metrics.REVIEW_DECISIONS, REVIEW_ACTIONS)
    _begin(metrics.SIGN_INS, SIGN_IN_OUTCOMES)
    _begin(metrics.SEARCH_CLICKS, CLICK_OUTCOMES)
    _begin(metrics.SIMILAR, SIMILAR_OUTCOMES)
    _begin(metrics.REPAIRED, REPAIRED_STEPS["api"])
    _begin_shared()


def begin_worker(model: str, max_attempts: int) -> None:
    """Create the series of a worker that serves `model`."""
    for status in JobStatus:
        if status.terminal:
            metrics.JOBS_FINISHED.labels(model, status.value)
    for attempt in range(1, max_attempts + 1):
        metrics.ATTEMPTS.labels(model, str(attempt))
    for outcome in BATCH_OUTCOMES:
        metrics.BATCHES.labels(model, outcome)
    for cause in RESTART_CAUSES:
        metrics.ENGINE_RESTARTS.labels(model, cause)
    _begin(metrics.EMBEDDINGS, EMBEDDING_OUTCOMES)
    _begin(metrics.PICTURE_VERDICTS, PICTURE_STATES)
    for layer in PICTURE_LAYERS:
        for away in AWAY_CAUSES:
            metrics.LAYER_AWAY.labels(layer, away)
    metrics.LAYER_AWAY.labels("pictures", "policy")
    _begin(metrics.REPAIRED, REPAIRED_STEPS["worker"])
    _begin_shared()


def begin_webhooks() -> None:
    """Create the series of a process that delivers webhooks."""
    _begin(metrics.WEBHOOKS, WEBHOOK_OUTCOMES)
    _begin(metrics.REPAIRED, REPAIRED_STEPS["webhooks"])


def begin_second_look() -> None:
    """Create the series of a process that lets a model look at held images."""
    _begin(metrics.SECOND_LOOKS, SECOND_LOOK_OUTCOMES)
    _begin(metrics.REVIEW_DECISIONS, ("release", "refuse"))
    _begin(metrics.REPAIRED, REPAIRED_STEPS["second_look"])


def begin_search() -> None:
    """Create the series of a search process."""
    _begin(metrics.SEARCH_INDEXED, SEARCH_OUTCOMES)
    _begin(metrics.SEARCH_RERANKED, RERANK_OUTCOMES)
    _begin(metrics.REPAIRED, REPAIRED_STEPS["search"])


def _begin_shared() -> None:
    _begin(metrics.PUBLISHES, PUBLISH_OUTCOMES)
    _begin(metrics.RELAYED, RELAY_REASONS)
    _begin(metrics.BLOB_STORE_ERRORS, BLOB_STORE_CAUSES)


def _begin(counter: Counter, values: Iterable[str]) -> None:
    for value in values:
        counter.labels(value)


def _tree(base: type[DarkroomError]) -> Iterator[type[DarkroomError]]:
    yield base
    for subclass in base.__subclasses__():
        yield from _tree(subclass)

"""Everything that the platform stores: one row per store and family of keys. There is no other list.

A new store, family of keys or queue gets a row here. The row says how long the data stays, whether a
backup has it, how other versions read it, how it is erased with its tenant, and what bounds it.
`tests/integration/test_kept.py` runs the platform, looks at everything in Redis, in the blob store and on
the broker, and fails for data without a row. docs/operations.md shows the rows as `table` prints them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

from contracts.kept_files import FILE_ROWS, SIGNED_NAMES
from contracts.kept_reviews import LOOK_QUEUE, REVIEW_ROWS
from contracts.kept_row import Kept, Place
from contracts.kept_search import SEARCH_ROWS

__all__ = ["KEEPS_NOTHING", "KEPT", "Kept", "Place", "row_of", "table"]


_ALL: Final = "yes"
_FIXED: Final = "a fixed form"
_DOCUMENT: Final = "a document"
_WITH_JOB: Final = "with the job"
_NOBODYS: Final = "names no tenant"
_BY_JOBS: Final = "the jobs"

KEEPS_NOTHING: Final = frozenset({"events"})
"""Stores that only publish and keep nothing."""

KEPT: Final = (
    Kept(
        "job records",
        Place.STATE,
        "jobs",
        ("darkroom:{s*}:job:*",),
        "`job_retention_s` after the end; at least four days with a webhook",
        _ALL,
        "documents; an unknown status counts as running",
        "yes. A mark with id and deadline stays until the job's message can no longer run",
        "`tenant_store_bytes`, `store_full_share`",
    ),
    Kept(
        "computations, and the jobs that wait for them",
        Place.STATE,
        "jobs",
        ("darkroom:{s*}:flight:*", "darkroom:{s*}:followers:*"),
        "10 s after an image; otherwise until the last waiting job ends",
        _ALL,
        _FIXED,
        _WITH_JOB,
        _BY_JOBS,
    ),
    Kept(
        "lists of live jobs",
        Place.STATE,
        "jobs",
        (
            "darkroom:{s*}:outbox",
            "darkroom:{s*}:leases",
            "darkroom:{s*}:deadlines",
            "darkroom:{s*}:waiting:*",
        ),
        "the job ends",
        "yes; every waiting job is published again",
        _FIXED,
        "the job is canceled first",
        "`queue_max_length`, `job_ttl_s`",
    ),
    Kept(
        "a tenant's jobs in order",
        Place.STATE,
        "jobs",
        ("darkroom:{s*}:tenant:*",),
        "the longest retention among these jobs ends",
        _ALL,
        _FIXED,
        "yes",
        _BY_JOBS,
    ),
    Kept(
        "counts of all jobs, the time of the last sweep, and the number of shards",
        Place.STATE,
        "jobs",
        ("darkroom:{s*}:counts", "darkroom:{s*}:mark", "darkroom:{house}:layout"),
        "kept forever",
        _ALL,
        _FIXED,
        _NOBODYS,
        "one of each per shard",
    ),
    Kept(
        "webhooks still to be delivered, and their attempts",
        Place.STATE,
        "webhooks",
        ("darkroom:{s*}:hook:*", "darkroom:{s*}:hooklog:*", "darkroom:{s*}:hooks"),
        "`job_retention_s` after the job's end, at least four days",
        _ALL,
        _DOCUMENT,
        _WITH_JOB,
        "the jobs; attempts: `webhook_retry_s`",
    ),
    *SEARCH_ROWS,
    SIGNED_NAMES,
    *REVIEW_ROWS,
    Kept(
        "webhook signing secrets",
        Place.STATE,
        "webhooks",
        ("darkroom:webhook-secrets:*",),
        "kept forever; a replaced secret until its overlap ends",
        _ALL,
        _DOCUMENT,
        "yes",
        "two per tenant",
    ),
    Kept(
        "webhook receivers that answered 410",
        Place.STATE,
        "webhooks",
        ("darkroom:webhook-gone:*",),
        "three days",
        _ALL,
        _FIXED,
        "yes",
        _BY_JOBS,
    ),
    Kept(
        "the sweeper's lease",
        Place.STATE,
        "jobs",
        ("darkroom:{house}:keeper",),
        "3 s",
        _ALL,
        _FIXED,
        _NOBODYS,
        "one",
    ),
    Kept(
        "fair-queueing state of a model",
        Place.STATE,
        "jobs",
        ("darkroom:{fair:*}:clock", "darkroom:{fair:*}:finish"),
        "`job_retention_s` after the model's last job",
        _ALL,
        _FIXED,
        "yes",
        "two per tenant and model",
    ),
    Kept(
        "API keys and their revocations",
        Place.STATE,
        "keys",
        ("darkroom:{keys}:records", "darkroom:{keys}:revoked"),
        "kept forever, revoked or not",
        "yes; a key that was revoked after the backup is valid again",
        "documents; a key that needs a newer version is not accepted",
        "yes",
        "only administrators create them",
    ),
    Kept(
        "quota accounts of API keys",
        Place.STATE,
        "quotas",
        (
            "darkroom:{quota:*}:tat",
            "darkroom:{quota:*}:queued",
            "darkroom:{quota:*}:running",
            "darkroom:{quota:*}:images:*",
            "darkroom:{quota:*}:once:*",
            "darkroom:{quota:*}:refunded:*",
        ),
        "rate: the bucket is full again; jobs: `job_ttl_s` + a minute; images, `refunded`: two days; `once`: a day",
        _ALL,
        _FIXED,
        "yes",
        "the key's own limits",
    ),
    Kept(
        "idempotency keys",
        Place.STATE,
        "idempotency",
        ("darkroom:idempotency:*",),
        "a day",
        _ALL,
        _DOCUMENT,
        "yes. A key written by 0.1 whose job record has expired names no tenant; it expires after its day",
        "`tenant_store_bytes`",
    ),
    Kept(
        "bytes that a tenant's jobs take",
        Place.STATE,
        "room",
        ("darkroom:kept:*",),
        "the jobs that it counts expire",
        _ALL,
        _FIXED,
        "yes",
        "about thirty numbers per tenant",
    ),
    Kept(
        "usage by day and tenant",
        Place.STATE,
        "usage",
        ("darkroom:{usage}:*",),
        "35 days",
        _ALL,
        "an unknown measure is skipped",
        "yes",
        "six numbers per tenant and day",
    ),
    Kept(
        "models, and their measured speed",
        Place.STATE,
        "models",
        ("darkroom:{models}:specs", "darkroom:{models}:cost"),
        "kept forever",
        _ALL,
        _DOCUMENT,
        _NOBODYS,
        "the operator's models",
    ),
    Kept(
        "live workers",
        Place.STATE,
        "models",
        ("darkroom:{models}:workers", "darkroom:{models}:worker:*", "darkroom:{models}:lately:*"),
        "`worker_ttl_s`; `worker_grace_s`",
        "yes; they announce themselves again",
        _DOCUMENT,
        _NOBODYS,
        "the operator's workers",
    ),
    Kept(
        "a running restore, erasure or migration",
        Place.STATE,
        "jobs",
        ("darkroom:restoring", "darkroom:erasing:*", "darkroom:{house}:migration"),
        "it ends",
        _ALL,
        _FIXED,
        "when it ends",
        "the operator's commands",
    ),
    Kept(
        "cached results",
        Place.CACHE,
        "results",
        ("darkroom:result:*",),
        "`result_ttl_s`, or until evicted",
        "only if the cache and the state share one server",
        "a document; an unreadable one is a miss",
        "yes; in a shared cache, only those that no other tenant's job has",
        "`maxmemory` and eviction of its Redis",
    ),
    Kept(
        "counts of hits and misses",
        Place.CACHE,
        "results",
        ("darkroom:results:counts",),
        "kept forever, or until evicted",
        "only if the cache and the state share one server",
        _FIXED,
        _NOBODYS,
        "one",
    ),
    *FILE_ROWS,
    Kept(
        "job messages",
        Place.BROKER,
        "broker",
        ("darkroom.jobs.*",),
        "a worker has ended the job; for a canceled job, a worker has received the message",
        "no; published again from the records",
        _DOCUMENT,
        "the job's mark keeps them from running; a worker discards them",
        "`queue_max_length`",
    ),
    Kept(
        "webhooks due now",
        Place.BROKER,
        "broker",
        ("darkroom.webhooks",),
        "the attempt is made",
        "no; published again from the webhooks still to be delivered",
        _DOCUMENT,
        "they hold only the job's id",
        "10,000, or `queue_max_length`",
    ),
    Kept(
        "jobs whose images are to be indexed now",
        Place.BROKER,
        "broker",
        ("darkroom.search",),
        "the search process has indexed them",
        "no; published again from what the index is owed",
        _DOCUMENT,
        "they hold only the job's id",
        "10,000, or `queue_max_length`",
    ),
    LOOK_QUEUE,
    Kept(
        "dead letters: messages that the broker gave up on",
        Place.BROKER,
        "broker",
        ("darkroom.dead",),
        "the sweeper has failed the job, within seconds",
        "no",
        "left to a version that can read them",
        "as job messages",
        _BY_JOBS,
    ),
    Kept(
        "messages that are not jobs",
        Place.BROKER,
        "broker",
        ("darkroom.refused",),
        "an operator has looked at them and deleted them by hand",
        "no",
        "never read",
        "by hand: their tenant is unknown",
        "10,000; the oldest are dropped",
    ),
    Kept(
        "the search index: embedding, prompt and filters of each image",
        Place.INDEX,
        "index",
        (
            "pictures.sqlite3*",
            "vectors-*.usearch",
            "lock",
            "darkroom-search:*",
            "darkroom_search.*",
        ),
        "`blob_retention_s` after the job's end",
        "no; filled again from the records of images",
        "belongs to one CLIP; another format is refused, and the index is rebuilt",
        "once the search process has forgotten it; an index in a folder keeps the tenant's name",
        "the images",
    ),
    Kept(
        "kombu's own keys, with Redis as the broker",
        Place.BROKER,
        "broker",
        ("_kombu.binding.*", "unacked", "unacked_index", "unacked_mutex"),
        "as long as the messages",
        "no",
        "kombu's",
        "as job messages",
        "the messages",
    ),
)


def row_of(name: str, *places: Place) -> Kept | None:
    """The row of a key, file or queue, among those of `places`; None: there is none."""
    return next((row for row in KEPT if row.place in places and row.covers(name)), None)


def table() -> Iterator[str]:
    """The rows as a Markdown table for docs/operations.md, line by line."""
    yield "| what | where, and under which names | until | in a backup | between versions | erased with its tenant | bounded by |"
    yield "|---|---|---|---|---|---|---|"
    for row in KEPT:
        names = ", ".join(f"`{pattern}`" for pattern in row.patterns)
        cells = (
            row.what,
            f"{row.place}: {names}",
            row.until,
            row.backup,
            row.versions,
            row.erased,
            row.bound,
        )
        yield "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.stdout.write("\n".join(table()) + "\n")

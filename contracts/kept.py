"""Everything that the platform keeps: one row for each store and family of keys. There is no other list.

A new store, a new family of keys or a new queue gets a row here, and says in it how long it stays, whether a backup has it, how other
versions read it, how it is erased with its tenant, and what bounds it. `tests/integration/test_kept.py` runs the platform, looks at all that
is in Redis, in the pictures' store and on the broker, and fails for what has no row. docs/operations.md shows the rows, as `table` draws them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final


class Place(StrEnum):
    """Where it is."""

    STATE = "state Redis"
    CACHE = "cache Redis"
    PICTURES = "pictures"
    BROKER = "broker"


@dataclass(frozen=True, slots=True)
class Kept:
    """One row. `patterns` are those of SCAN: names of keys, of files under the folder or in the bucket, of queues. `store` is its field
    in `cache.stores.Stores`; `broker` for queues. The others are words for people."""

    what: str
    place: Place
    store: str
    patterns: tuple[str, ...]
    until: str
    backup: str
    versions: str
    erased: str
    bound: str

    def covers(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)


_ALL: Final = "yes"
_FIXED: Final = "a fixed form"
_DOCUMENT: Final = "a document"
_WITH_JOB: Final = "with the job"
_NOBODYS: Final = "names no tenant"
_BY_JOBS: Final = "the jobs"

KEEPS_NOTHING: Final = frozenset({"events"})
"""Stores that only publish: what nobody hears is gone."""

KEPT: Final = (
    Kept(
        "job records",
        Place.STATE,
        "jobs",
        ("darkroom:{s*}:job:*",),
        "`job_retention_s` after the end, with a webhook at least four days",
        _ALL,
        "documents; a status that is not known counts as running",
        "yes. A mark stays, id and deadline, until its message cannot run any more",
        "`tenant_store_bytes`, `store_full_share`",
    ),
    Kept(
        "computations, and who waits for them",
        Place.STATE,
        "jobs",
        ("darkroom:{s*}:flight:*", "darkroom:{s*}:followers:*"),
        "10 s after a picture; else the end of the last who waits",
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
        "the job's end",
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
        "as long as the last of them may be kept",
        _ALL,
        _FIXED,
        "yes",
        _BY_JOBS,
    ),
    Kept(
        "counts of all jobs, the time of the last sweep, and in how many shards they lie",
        Place.STATE,
        "jobs",
        ("darkroom:{s*}:counts", "darkroom:{s*}:mark", "darkroom:{house}:layout"),
        "for good",
        _ALL,
        _FIXED,
        _NOBODYS,
        "one each for a shard",
    ),
    Kept(
        "webhooks owed, and their attempts",
        Place.STATE,
        "webhooks",
        ("darkroom:{s*}:hook:*", "darkroom:{s*}:hooklog:*", "darkroom:{s*}:hooks"),
        "`job_retention_s` after the job's end, at least four days",
        _ALL,
        _DOCUMENT,
        _WITH_JOB,
        "the jobs; attempts: `webhook_retry_s`",
    ),
    Kept(
        "secrets that sign webhooks",
        Place.STATE,
        "webhooks",
        ("darkroom:webhook-secrets:*",),
        "for good; a replaced one until its overlap ends",
        _ALL,
        _DOCUMENT,
        "yes",
        "two for a tenant",
    ),
    Kept(
        "receivers that have said 410",
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
        "who keeps house",
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
        "turns in a model's queue",
        Place.STATE,
        "jobs",
        ("darkroom:{fair:*}:clock", "darkroom:{fair:*}:finish"),
        "`job_retention_s` after the model's last job",
        _ALL,
        _FIXED,
        "yes",
        "two for a tenant and model",
    ),
    Kept(
        "API keys and their revocations",
        Place.STATE,
        "keys",
        ("darkroom:{keys}:records", "darkroom:{keys}:revoked"),
        "for good, revoked or not",
        "yes; one revoked since is open again",
        "documents; one that needs a newer version opens nothing",
        "yes",
        "administrators alone make them",
    ),
    Kept(
        "accounts of API keys",
        Place.STATE,
        "quotas",
        (
            "darkroom:{quota:*}:tat",
            "darkroom:{quota:*}:queued",
            "darkroom:{quota:*}:running",
            "darkroom:{quota:*}:images:*",
            "darkroom:{quota:*}:once:*",
        ),
        "the bucket is full again; `job_ttl_s` and a minute; two days; a day",
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
        "yes. One written by 0.1 whose job has lapsed names no tenant, and ends after its day",
        "`tenant_store_bytes`",
    ),
    Kept(
        "what a tenant's jobs take",
        Place.STATE,
        "room",
        ("darkroom:kept:*",),
        "as long as what it counts",
        _ALL,
        _FIXED,
        "yes",
        "some thirty numbers for a tenant",
    ),
    Kept(
        "usage by day and tenant",
        Place.STATE,
        "usage",
        ("darkroom:{usage}:*",),
        "35 days",
        _ALL,
        "a measure that is not known is passed over",
        "yes",
        "six numbers for a tenant and day",
    ),
    Kept(
        "models, and what their speed was",
        Place.STATE,
        "models",
        ("darkroom:{models}:specs", "darkroom:{models}:cost"),
        "for good",
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
        "a restore, an erasure or a migration under way",
        Place.STATE,
        "jobs",
        ("darkroom:restoring", "darkroom:erasing:*", "darkroom:{house}:migration"),
        "it has come to its end",
        _ALL,
        _FIXED,
        "with its end",
        "the operator's commands",
    ),
    Kept(
        "cached results",
        Place.CACHE,
        "results",
        ("darkroom:result:*",),
        "`result_ttl_s`, or until evicted",
        "where it is one server with the state",
        "a document; one that cannot be read is a miss",
        "yes; of a shared cache those that no other tenant's job has",
        "`maxmemory` and eviction of its Redis",
    ),
    Kept(
        "counts of hits and misses",
        Place.CACHE,
        "results",
        ("darkroom:results:counts",),
        "for good, or until evicted",
        "where it is one server with the state",
        _FIXED,
        _NOBODYS,
        "one",
    ),
    Kept(
        "drawn pictures, previews too",
        Place.PICTURES,
        "blobs",
        ("??/[0-9a-f]*.*", "??/.*.part"),
        "`blob_retention_s` after they were last drawn",
        "yes; those in a bucket are its owner's",
        "files",
        "those that a record or result of the tenant names, and none of another's",
        "`blob_max_bytes`",
    ),
    Kept(
        "pictures that jobs start from",
        Place.PICTURES,
        "blobs",
        ("inputs/??/[0-9a-f]*.*", "inputs/??/.*.part"),
        "`blob_retention_s` after they were last sent",
        "yes; those in a bucket are its owner's",
        "files",
        "likewise",
        "`blob_max_bytes`",
    ),
    Kept(
        "messages of jobs",
        Place.BROKER,
        "broker",
        ("darkroom.jobs.*",),
        "a worker has ended the job; that of a canceled one until a worker comes to it",
        "no; made again from the records",
        _DOCUMENT,
        "the job's mark keeps them from running; a worker throws them away",
        "`queue_max_length`",
    ),
    Kept(
        "webhooks that are due",
        Place.BROKER,
        "broker",
        ("darkroom.webhooks",),
        "the attempt is made",
        "no; made again from what is owed",
        _DOCUMENT,
        "hold the job's id alone",
        "10,000, or `queue_max_length`",
    ),
    Kept(
        "messages that the broker gave up on",
        Place.BROKER,
        "broker",
        ("darkroom.dead",),
        "the job is failed, seconds later",
        "no",
        "left to who can read them",
        "as messages of jobs",
        _BY_JOBS,
    ),
    Kept(
        "messages that are no job",
        Place.BROKER,
        "broker",
        ("darkroom.refused",),
        "somebody has looked: delete them by hand",
        "no",
        "never read",
        "by hand: nobody can tell whose they are",
        "10,000; the oldest go",
    ),
    Kept(
        "bookkeeping of Redis as the broker",
        Place.BROKER,
        "broker",
        ("_kombu.binding.*", "unacked", "unacked_index", "unacked_mutex"),
        "as the messages",
        "no",
        "kombu's",
        "as messages of jobs",
        "the messages",
    ),
)


def row_of(name: str, *places: Place) -> Kept | None:
    """The row that a key, file or queue belongs to; None: it has none."""
    return next((row for row in KEPT if row.place in places and row.covers(name)), None)


def table() -> Iterator[str]:
    """The rows as docs/operations.md shows them, line by line."""
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

"""What the platform keeps of held images: rows of `contracts/kept.py`."""

from __future__ import annotations

from typing import Final

from contracts.kept_row import Kept, Place

_ALL: Final = "yes"
_DOCUMENT: Final = "a document"
_FIXED: Final = "a fixed form"
_NOBODYS: Final = "names no tenant"

HELD_FILES: Final = Kept(
    "held images",
    Place.PICTURES,
    "blobs",
    ("held/??/[0-9a-f]*.*", "held/??/.*.part"),
    "`blob_retention_s`; a refused one: `review_undo_s` after the refusal",
    "yes; a bucket is backed up by its owner",
    "files",
    "as generated images",
    "`blob_max_bytes`",
)
REVIEW_ROWS: Final = (
    Kept(
        "held images: what a reviewer is shown, the jobs, votes, decision and appeal, and what a model said",
        Place.STATE,
        "reviews",
        ("darkroom:{s*}:review:*", "darkroom:{s*}:held:*"),
        "`blob_retention_s` after the job's end",
        _ALL,
        "documents; one that cannot be read is left out",
        "yes, the tenant's jobs; an image that another tenant's job has stays for that one",
        "the jobs, not `tenant_store_bytes`: about 1.5 kB per held image, 2.2 kB more with an embedding, and 1 kB more with a second look",
    ),
    Kept(
        "lists of held images: that wait, that are decided, whose decision is not carried out, whose file is to be deleted",
        Place.STATE,
        "reviews",
        (
            "darkroom:{s*}:reviews",
            "darkroom:{s*}:reviewed",
            "darkroom:{s*}:unapplied",
            "darkroom:{s*}:discards",
        ),
        "as long as the held images",
        _ALL,
        _FIXED,
        "with the held images",
        "the held images",
    ),
    Kept(
        "held images that a model is to look at",
        Place.STATE,
        "looks",
        ("darkroom:{s*}:unlooked",),
        "the model has answered, or `deadline_s` of the policy",
        _ALL,
        _FIXED,
        "with the held images",
        "the held images",
    ),
    Kept(
        "calls of the model, by hour",
        Place.STATE,
        "looks",
        ("darkroom:{reviews}:looks:*",),
        "two hours",
        _ALL,
        _FIXED,
        _NOBODYS,
        "one number an hour",
    ),
    Kept(
        "what people decided on an image, by its hash",
        Place.STATE,
        "reviews",
        ("darkroom:{reviews}:past:*",),
        "a year after the image was last drawn",
        _ALL,
        _DOCUMENT,
        _NOBODYS,
        "one per decided image",
    ),
    Kept(
        "the audit trail of moderation",
        Place.STATE,
        "moderation_log",
        ("darkroom:{reviews}:log", "darkroom:{reviews}:logged"),
        "kept forever",
        _ALL,
        "documents; a chain of hashes",
        _NOBODYS,
        "about 0.6 kB per decision",
    ),
    Kept(
        "the scan that applies a policy to what is stored: how far it has come, and what became of each image",
        Place.STATE,
        "scans",
        (
            "darkroom:{reviews}:scan",
            "darkroom:{reviews}:scan-*",
        ),
        "its counts: forever; the rest: the scan ends, or seven days",
        _ALL,
        _DOCUMENT,
        "when the scan ends: until then it names images by hash, jobs by id, and its tenant if it is of one",
        "about 0.2 kB per image, while a scan runs",
    ),
    Kept(
        "what layers have found in stored images, by hash and policy",
        Place.CACHE,
        "scans",
        ("darkroom:looks:*",),
        "`blob_retention_s`, or until evicted",
        "only if the cache and the state share one server",
        _DOCUMENT,
        _NOBODYS,
        "0.2 kB per image and policy; `maxmemory` and eviction of its Redis",
    ),
    Kept(
        "appeals of a tenant, and held images opened by a reviewer, of a day",
        Place.STATE,
        "reviews",
        ("darkroom:{reviews}:appeals:*", "darkroom:{reviews}:opened:*"),
        "two days",
        _ALL,
        _FIXED,
        "appeals: yes; what a reviewer has opened names no tenant",
        "`appeals_per_day`, `review_pictures_per_day`",
    ),
    Kept(
        "people who are signed in, whose sessions an operator has ended, and sign-ins that are completed",
        Place.STATE,
        "sessions",
        ("darkroom:{sessions}:session:*", "darkroom:{sessions}:ended:*", "darkroom:{sessions}:spent:*"),
        "`oidc_session_s`, or until they sign out; a completed sign-in: 11 minutes",
        _ALL,
        _DOCUMENT,
        _NOBODYS,
        "about 0.5 kB per session. The provider has let each of them in",
    ),
)

LOOK_QUEUE: Final = Kept(
    "held images that a model is to look at now",
    Place.BROKER,
    "broker",
    ("darkroom.second_look",),
    "the attempt is made",
    "no; published again from the held images that a model is to look at",
    _DOCUMENT,
    "they hold only the image's file name",
    "10,000, or `queue_max_length`",
)

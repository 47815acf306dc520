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
    "as long as the review, at most `blob_retention_s` and a day; a refused one: `review_undo_s` after the refusal",
    "yes; a bucket is backed up by its owner",
    "files",
    "as generated images",
    "count in `blob_max_bytes`, and are not deleted for it",
)
REVIEW_ROWS: Final = (
    Kept(
        "what blocked jobs are owed: images that their keys were charged",
        Place.STATE,
        "refunds",
        ("darkroom:{s*}:refunds",),
        "until they are paid, within seconds; at most two days",
        _ALL,
        _FIXED,
        "names no tenant; the key's id goes with the payment",
        "the blocked jobs",
    ),
    Kept(
        "held images: what a reviewer is shown, the jobs, votes, decision and appeal",
        Place.STATE,
        "reviews",
        ("darkroom:{s*}:review:*", "darkroom:{s*}:held:*"),
        "`blob_retention_s` after the job's end",
        _ALL,
        "documents; one that cannot be read is left out",
        "yes, the tenant's jobs; an image that another tenant's job has stays for that one",
        "the jobs, not `tenant_store_bytes`: about 1.5 kB per held image, and 2.2 kB more with an embedding",
    ),
    Kept(
        "lists of held images: that wait, that are decided, whose decision is not carried out, when each file is to be deleted",
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
        "what people decided on an image, or that they took it back, by its hash",
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
        "files that are being published after a release",
        Place.STATE,
        "publications",
        ("darkroom:{reviews}:publishing",),
        "until the file is stored; an hour, if its process died",
        _ALL,
        _FIXED,
        _NOBODYS,
        "one per file",
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
)

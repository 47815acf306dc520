"""The files of images, and what is known of signed ones: rows of `contracts/kept.py`."""

from __future__ import annotations

from typing import Final

from contracts.kept_reviews import HELD_FILES
from contracts.kept_row import Kept, Place

SIGNED_NAMES: Final = Kept(
    "names of signed images, by the hash of the unsigned one",
    Place.STATE,
    "signed_names",
    ("darkroom:signed:*",),
    "`blob_retention_s` after the last time that the image was drawn",
    "yes",
    "a fixed form",
    "names no tenant",
    "none: about 250 bytes per signed image",
)

FILE_ROWS: Final = (
    Kept(
        "generated images and previews",
        Place.PICTURES,
        "blobs",
        ("??/[0-9a-f]*.*", "??/.*.part"),
        "`blob_retention_s` after they were last generated",
        "yes; a bucket is backed up by its owner",
        "files",
        "those that a record or result of the tenant names, and that no other tenant's record or result names",
        "`blob_max_bytes`",
    ),
    Kept(
        "init images",
        Place.PICTURES,
        "blobs",
        ("inputs/??/[0-9a-f]*.*", "inputs/??/.*.part"),
        "`blob_retention_s` after they were last sent",
        "yes; a bucket is backed up by its owner",
        "files",
        "as generated images",
        "`blob_max_bytes`",
    ),
    HELD_FILES,
)

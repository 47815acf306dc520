"""What the platform stores for the search, beside the index itself: rows of `contracts/kept.py`."""

from __future__ import annotations

from typing import Final

from contracts.kept_row import Kept, Place

_ALL: Final = "yes"
_BY_JOBS: Final = "the jobs"
_DOCUMENT: Final = "a document"
_FIXED: Final = "a fixed form"
_NOBODYS: Final = "names no tenant"

SEARCH_ROWS: Final = (
    Kept(
        "records of images with an embedding, and of imported ones",
        Place.STATE,
        "pictures",
        ("darkroom:{s*}:picture:*",),
        "`blob_retention_s` after the job's end or the import",
        _ALL,
        "documents; one that cannot be read is left out",
        "yes",
        "the jobs, not `tenant_store_bytes`; imported ones count in it: about 2.2 kB per image with a CLIP of 512 dimensions",
    ),
    Kept(
        "which files were imported, and the records of each imported image",
        Place.STATE,
        "imports",
        ("darkroom:{s*}:imported:*", "darkroom:{s*}:importers:*"),
        "`blob_retention_s` after the last import",
        _ALL,
        _FIXED,
        "yes",
        "the imports, in `tenant_store_bytes`: about 0.5 kB per image",
    ),
    Kept(
        "images that the search index does not have yet, or must forget",
        Place.STATE,
        "pictures",
        ("darkroom:{s*}:unindexed", "darkroom:{s*}:unwanted"),
        "the index has done it; at most `blob_retention_s`",
        _ALL,
        _FIXED,
        "when the index has forgotten them: until then, name and scope of each",
        _BY_JOBS,
    ),
    Kept(
        "how far the rebuild of each search index has come",
        Place.STATE,
        "rebuilds",
        ("darkroom:search-rebuild:*",),
        "kept forever",
        _ALL,
        _DOCUMENT,
        _NOBODYS,
        "one per index and CLIP",
    ),
)
